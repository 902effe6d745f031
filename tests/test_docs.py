"""The documents agree with the code: the tree, the methods, the settings, the commands, the version."""

import re
from pathlib import Path

import pytest

import quantmill
from quantmill.errors import JobError
from quantmill.recipe.methods import AS_IT_IS, METHODS
from quantmill.settings import Settings
from tasks import environments

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/decisions.md",
    "docs/environments.md",
    "docs/figures.md",
    "docs/settings.md",
    "docs/sources.md",
    "docs/variants.md",
    "docs/calibration.md",
    "docs/consuming.md",
    "docs/methods.md",
    "docs/operations.md",
    "docs/reliability.md",
    "docs/security.md",
    "infra/kubernetes/README.md",
]


def tree() -> list[str]:
    """Return the paths of the README's tree; two blanks of indent are one folder."""
    block = README.partition("## The tree")[2].split("```")[1]
    found, folders = [], list[str]()
    for line in filter(None, block.splitlines()):
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders = [*folders[:depth], name]
        found.append("".join(folders) if name.endswith("/") else "".join(folders[:depth]) + name)
    return found


def rows(page: str, first_cell: str) -> dict[str, list[str]]:
    """Return name -> cells of the page's table rows whose first cell is a name in backquotes that matches."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition("## Who loads what")[0]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:2] == "| "]
    return {row[0].strip("`"): row for row in cells if re.fullmatch(f"`{first_cell}`", row[0])}


def test_the_tree_names_every_room_and_nothing_else() -> None:
    listed = tree()
    assert len(listed) == len(set(listed))
    assert not [path for path in listed if not (ROOT / path).is_dir()]
    rooms = {
        f"{path.parent.relative_to(ROOT).as_posix()}/"
        for package in ("quantmill", "tasks", "flows", "infra")
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert rooms <= set(listed)


def test_the_readme_is_short_and_names_every_page() -> None:
    assert len(README.splitlines()) <= 200
    assert not [page for page in (ROOT / "docs").glob("*.md") if f"`docs/{page.name}`" not in README]


def test_the_methods_table_is_that_of_the_rows() -> None:
    table = rows("variants.md", "[a-z]+")
    assert list(table) == list(METHODS)
    for name, (_, _, kinds, calibrated, form, loaders) in table.items():
        row = METHODS[name]
        assert kinds.split(", ") == (list(row.widths) or [AS_IT_IS])
        assert calibrated == ("yes" if row.calibrated else "no")
        assert form == row.format
        assert loaders == ", ".join(row.loaders)


def test_the_table_of_programs_is_that_of_the_rules() -> None:
    table = (ROOT / "docs" / "variants.md").read_text(encoding="utf-8").partition("## Who loads what")[2]
    said = [line for line in table.splitlines() if line.startswith("| `")]
    assert said == [
        f"| `{row.name}` | {rule.place} | {', '.join(rule.conditions) or 'all'} | {rule.proof} |"
        for row in METHODS.values()
        for rule in row.programs
    ]


def test_the_settings_table_names_every_setting() -> None:
    assert list(rows("settings.md", "QUANTMILL_[A-Z_]+")) == [
        f"QUANTMILL_{name.upper()}" for name in Settings.model_fields
    ]


def test_the_table_of_environments_names_every_environment() -> None:
    table = rows("environments.md", r"[\w.-]+")
    assert list(table) == [found.name for found in environments.read_all()]
    for found in environments.read_all():
        assert table[found.name][-1].rstrip(" |") == str(len(found.pins))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_path_of_a_machine(name: str) -> None:
    assert not re.findall(r"(?<![\w.])/(?:work|tmp|home|root)\b", (ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_the_commands_exist(name: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b(?=[` ]{1,})", _commands(name))) <= targets


def _commands(name: str) -> str:
    """Return what stands in code: indented blocks and backquotes."""
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^ {4}.*$", text, re.MULTILINE)
    return "\n".join([f"{part} " for part in (*blocks, *re.findall(r"`([^`\n]+)`", text))])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_named_in_the_documents_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(
        re.findall(r"`((?:quantmill|tasks|flows|tests|docs|deployments|benchmarks|infra)/[\w./-]+\.\w+)`", text)
    )
    assert not [path for path in named if not (ROOT / path).is_file()]


def test_the_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(quantmill.__version__)}\]", text, re.MULTILINE)


def test_no_placeholder_is_left() -> None:
    left = {name: found for name in DOCUMENTS if (found := re.findall(r"<<\w+>>", (ROOT / name).read_text("utf-8")))}
    assert not left


def test_every_row_of_the_fault_table_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) == 23
    for row in rows:
        for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row):
            assert f"def {name}" in (ROOT / path).read_text(encoding="utf-8"), (path, name)


def test_troubleshooting_says_what_the_errors_say() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    for error in (*JobError.__subclasses__(), JobError):
        if error.advice:
            assert re.search(rf"\| `{error.__name__}` \|.*\| {re.escape(error.advice)} \|", text), error


def test_the_tests_that_the_security_page_names_exist() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)\*?`", (ROOT / "docs" / "security.md").read_text(encoding="utf-8"))
    assert len(named) > 8
    assert not [name for name in named if f"def {name}" not in code]
