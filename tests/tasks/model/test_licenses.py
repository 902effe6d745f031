"""Which licences are read, and which stop publishing."""

from pathlib import Path

import pytest

from quantmill.recipe.recipe import ModelRequest
from quantmill.records.artifact import Origin
from quantmill.settings import Settings, load_settings
from tasks.model import licences as licenses
from tests import samples


def origin(source: str, stated: str) -> Origin:
    request = ModelRequest(source=source)
    return Origin(request=request, kind="folder", files=(), architecture=samples.SHAPE, license=stated)


@pytest.mark.parametrize(
    ("source", "stated", "policy", "allowed"),
    [
        ("hf://org/name", "apache-2.0", "", True),
        ("hf://org/name", "Apache-2.0", "", True),
        ("hf://org/name", "llama3.1", "", False),
        ("hf://org/name", "llama3.1", "mit,llama3.1", True),
        ("hf://org/name", "", "", False),
        ("hf://org/name", "", "mit,own", False),
        ("hf://org/name", "", "*", True),
        ("package://module/file.gguf", "", "", False),
        ("./folder", "", "", True),
        ("s3://bucket/prefix", "", "", True),
        ("mlflow://models/name/1", "", "", True),
        ("./folder", "", "apache-2.0", False),
        ("./folder", "gemma", "", False),
        ("./folder", "own", "", False),
        ("./folder", "apache-2.0", "mit, own", False),
    ],
)
def test_the_policy(source: str, stated: str, policy: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if policy:
        monkeypatch.setenv("QUANTMILL_LICENSES", policy)
    why = licenses.obstacle(origin(source, stated), load_settings().licenses)
    assert (why == "") == allowed
    if why:
        assert why.startswith("not published: its")
        assert "QUANTMILL_LICENSES allows" in why
        assert "\n" not in why


def test_a_hostile_name_stays_on_its_line() -> None:
    why = licenses.obstacle(origin("./folder", "x\n\x1b[2J" * 100), Settings().licenses)
    assert why.isprintable()
    assert len(why) < 300


@pytest.mark.parametrize(
    ("card", "stated"),
    [
        ("---\nlicense: apache-2.0\n---\n# Card\n", "apache-2.0"),
        ("---\nlicense: [mit, x]\n---\n", ""),
        ("---\nlicense: !!python/object:os.system x\n---\n", ""),
        ("---\n{\n---\n", ""),
        ("---\n- license\n---\n", ""),
        ("license: mit\n", ""),
        (None, ""),
    ],
)
def test_what_a_folder_states(card: str | None, stated: str, tmp_path: Path) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licenses.stated_in(tmp_path) == stated
