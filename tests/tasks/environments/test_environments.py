"""Environments are made from a lock, reused, made again if broken, and removed if unused."""

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantmill.errors import EngineMismatch, EnvironmentFailed, EnvironmentNotReady, NotEnoughSpace, RequestError
from quantmill.machine import locks
from quantmill.settings import Settings
from tasks import environments, installed
from tasks.environments import made
from tasks.sandbox.sandbox import Sandbox
from tests.environment_job import Arguments
from tests.toy_environment import CHILD, Described, described_in

DAY_S = 86400.0


@pytest.fixture
def toys(tmp_path: Path) -> Iterator[Described]:
    with described_in(tmp_path) as described:
        described.add_package("1.0")
        yield described


def told_nothing(line: str) -> None:
    """Take a line of progress."""


def engine_file(toys: Described, name: str) -> Path:
    (found,) = made.place_of(name, toys.root).glob("lib/python3*/site-packages/toy_engine.py")
    return found


def test_a_job_runs_in_its_environment(toys: Described, tmp_path: Path) -> None:
    pins = {name: toys.add_installed(name) for name in CHILD} | {"toy-engine": "1.0"}
    environment = toys.describe("toy", pins, 'imports = ["toy_engine"]')
    settings = Settings(home=tmp_path / "home", environments=toys.root)
    environments.create(environment, settings.environments_folder, told_nothing)
    with Sandbox(settings).run(Arguments(), "thing", ("toy-engine",), environment="toy") as result:
        assert result.value == {
            "python": str(made.place_of("toy", toys.root) / "bin" / "python"),
            "engine": "1.0",
            "torch": False,
        }
    assert installed.locked(("toy-engine",), "toy") == {"toy-engine": "1.0"}

    (metadata,) = made.place_of("toy", toys.root).glob("lib/python3*/site-packages/toy_engine-1.0.dist-info/METADATA")
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 1.1"))
    with (
        pytest.raises(EnvironmentNotReady, match=r"toy: toy-engine: the lock says 1\.0, installed is 1\.1"),
        Sandbox(settings).run(Arguments(), "thing", ("toy-engine",), environment="toy"),
    ):
        pass


def test_a_job_without_its_environment_is_refused_before_it_starts(toys: Described, tmp_path: Path) -> None:
    toys.describe("toy", dict.fromkeys(("pydantic", "pydantic-settings", "pyyaml", "toy-engine"), "1.0"))
    home = tmp_path / "home"
    with (
        pytest.raises(EnvironmentNotReady, match="toy: this environment is not made on this machine") as raised,
        Sandbox(Settings(home=home)).run(Arguments(), "thing", ("toy-engine",), environment="toy"),
    ):
        pass
    assert "quantmill environments create NAME" in raised.value.advice
    assert not home.exists()


def test_a_job_is_refused_where_the_lock_lacks_what_its_child_imports(toys: Described, tmp_path: Path) -> None:
    toys.describe("bare", {"toy-engine": "1.0"})
    with (
        pytest.raises(EngineMismatch, match="pydantic: not in the lock of the environment bare"),
        Sandbox(Settings(home=tmp_path / "home")).run(Arguments(), "thing", environment="bare"),
    ):
        pass


def test_it_is_reused_until_its_lock_changes(toys: Described) -> None:
    environment = toys.describe("toy", {"toy-engine": "1.0"}, 'imports = ["toy_engine"]')
    with pytest.raises(EnvironmentNotReady, match="not made"):
        environments.interpreter("toy", toys.root)
    first = environments.create(environment, toys.root, told_nothing)
    file = engine_file(toys, "toy")
    inode = file.stat().st_ino
    assert environments.create(environment, toys.root, told_nothing) == first
    assert file.stat().st_ino == inode
    assert environments.interpreter("toy", toys.root).is_file()

    toys.add_package("2.0")
    newer = toys.describe("toy", {"toy-engine": "2.0"})
    assert environments.find_made("toy", toys.root) is None
    assert environments.create(newer, toys.root, told_nothing).lock != first.lock
    assert "2.0" in engine_file(toys, "toy").read_text()
    assert "1.0" in file.read_text(), "another checkout may use the older one"


@pytest.mark.parametrize("damage", ["unfinished", "import", "extra package"])
def test_what_is_half_made_or_broken_is_made_again(toys: Described, damage: str) -> None:
    environment = toys.describe("toy", {"toy-engine": "1.0"}, 'imports = ["toy_engine"]')
    environments.create(environment, toys.root, told_nothing)
    file, place = engine_file(toys, "toy"), made.place_of("toy", toys.root)
    if damage == "unfinished":
        (place / made.RECORD).unlink()
    elif damage == "import":
        file.write_text("import nowhere\n")
        (problem,) = environments.problems(environment, toys.root)
        assert problem == "import toy_engine: ModuleNotFoundError: No module named 'nowhere'"
    else:
        info = file.parent / "other-3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 3\n")
        assert environments.problems(environment, toys.root) == ["other: the lock says none, installed is 3"]
    (place / "rubbish").touch()
    environments.create(environment, toys.root, told_nothing)
    assert not (place / "rubbish").exists()
    assert not environments.problems(environment, toys.root)


def test_what_cannot_be_had_is_named_and_leaves_nothing_that_counts(toys: Described) -> None:
    environment = toys.describe("toy", {"toy-engine": "3.0"})
    with pytest.raises(EnvironmentFailed, match=r"toy: pip: ERROR: .* for toy-engine==3\.0; log: .*create\.log"):
        environments.create(environment, toys.root, told_nothing)
    assert environments.find_made("toy", toys.root) is None
    toys.add_package("3.0")
    environments.create(environment, toys.root, told_nothing)


def test_torch_comes_with_what_its_build_needs(toys: Described) -> None:
    """No lock lists the libraries of a CUDA build; everything else is installed by the lock alone."""
    toys.add_package("2.0", "torch", needs="toy-cuda")
    toys.add_package("1.0", "toy-cuda")
    toys.add_package("1.0", "other", needs="nowhere")
    environment = toys.describe("toy", {"torch": "2.0", "other": "1.0"}, 'imports = ["torch", "toy_cuda", "other"]')
    environments.create(environment, toys.root, told_nothing)


def test_what_does_not_work_is_not_made(toys: Described) -> None:
    environment = toys.describe("toy", {"toy-engine": "1.0"}, 'programs = ["toy-server --version"]')
    with pytest.raises(EnvironmentFailed, match=r"toy: toy-server --version: .*No such file"):
        environments.create(environment, toys.root, told_nothing)
    assert environments.find_made("toy", toys.root) is None


def test_too_little_disk_is_said_before(toys: Described) -> None:
    environment = toys.describe("toy", {"toy-engine": "1.0"}).model_copy(update={"disk_mb": 10**12})
    with pytest.raises(NotEnoughSpace, match="toy: needs about 1,000,000,000,000 MB under"):
        environments.create(environment, toys.root, told_nothing)
    assert not made.place_of("toy", toys.root).exists()


def test_a_record_that_cannot_be_read_is_an_error(toys: Described) -> None:
    environment = toys.describe("toy", {"toy-engine": "1.0"})
    environments.create(environment, toys.root, told_nothing)
    (made.place_of("toy", toys.root) / made.RECORD).write_text("{")
    with pytest.raises(EnvironmentFailed, match=r"complete\.json: cannot be read; remove "):
        environments.find_made("toy", toys.root)


def test_two_at_once_make_it_once(toys: Described) -> None:
    environment = toys.describe("toy", {"toy-engine": "1.0"})
    lines, records = list[str](), list[made.Made]()
    makers = [
        threading.Thread(target=lambda: records.append(environments.create(environment, toys.root, lines.append)))
        for _ in range(2)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert records[0] == records[1]
    assert [line for line in lines if line.endswith("waiting")]
    assert len([line for line in lines if "Installing" in line]) == 1


def test_what_nothing_uses_is_collected(toys: Described) -> None:
    old = toys.describe("toy", {"toy-engine": "1.0"})
    environments.create(old, toys.root, told_nothing)
    outdated = made.place_of("toy", toys.root)
    toys.add_package("2.0")
    environments.create(toys.describe("toy", {"toy-engine": "2.0"}), toys.root, told_nothing)
    current, half_made, foreign = made.place_of("toy", toys.root), toys.root / "gone-0123456789ab", toys.root / "notes"
    for folder in (half_made, foreign, toys.root / "other-0123456789ab"):
        folder.mkdir()
    made.lock_of(half_made).touch()

    assert [name for name, _ in environments.collect(toys.root, DAY_S, dry_run=True)] == [half_made.name]
    for place in (outdated, current):
        os.utime(place / made.RECORD, (0, 0))
    with locks.held(made.lock_of(half_made)):  # a process makes it
        assert [name for name, _ in environments.collect(toys.root, DAY_S, dry_run=True)] == [outdated.name]
    removed = environments.collect(toys.root, DAY_S, dry_run=False)
    assert [name for name, _ in removed] == [half_made.name, outdated.name]
    assert dict(removed)[outdated.name] > 1000
    left = {path.name for path in toys.root.iterdir() if path.is_dir()}
    assert left == {current.name, foreign.name, "other-0123456789ab"}


def test_what_is_no_folder_of_an_environment_is_left_alone(toys: Described, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / made.RECORD).write_text("kept")
    toys.root.mkdir(parents=True, exist_ok=True)
    link, file = toys.root / "linked-0123456789ab", toys.root / "file-0123456789ab"
    link.symlink_to(elsewhere)
    file.touch()
    for place in (link, file):
        made.lock_of(place).touch()
    assert environments.collect(toys.root, 0, dry_run=False) == []
    assert (elsewhere / made.RECORD).read_text() == "kept"


def test_a_job_s_use_is_noted(toys: Described) -> None:
    environments.create(toys.describe("toy", {"toy-engine": "1.0"}), toys.root, told_nothing)
    record = made.place_of("toy", toys.root) / made.RECORD
    os.utime(record, (0, 0))
    environments.interpreter("toy", toys.root)
    assert record.stat().st_mtime > DAY_S


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("disk_mb = 0", "cannot be read as TOML"),
        ('mirror = "x"', "mirror: Extra inputs are not permitted"),
        ('needed_by = "x"', "needed_by: Input should be a valid tuple"),
    ],
)
def test_a_bad_description_is_one_line(toys: Described, line: str, words: str) -> None:
    with pytest.raises(RequestError, match=words) as raised:
        toys.describe("toy", {"toy-engine": "1.0"}, line)
    assert "\n" not in str(raised.value)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(RequestError, match=r"carts: there is no such environment; allowed: cards, llama\.cpp, "):
        environments.read("carts")


@pytest.mark.parametrize("environment", environments.read_all(), ids=lambda found: found.name)
def test_the_locks_are_exact_and_take_the_factory_s_torch_and_llama_cpp(environment: environments.Environment) -> None:
    text = installed.lock_of(environment.name).read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert lines
    assert all(re.match(r"[\w.-]+==[\w.!+]+( +--config-settings=\S+)*$", line) for line in lines)
    if not environment.other_torch:
        for package in {"torch", "llama-cpp-python"} & environment.pins.keys():
            assert environment.pins[package] == installed.pins()[package]
