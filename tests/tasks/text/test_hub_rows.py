"""Data sets through `datasets`: a folder in the hub's layout, and a stand-in for the hub on loopback.

The real hub is not reached by any test.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quantmill.errors import TextError
from tasks.text import rows_hub as hub_rows
from tests.hub import COMMIT, served

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two subsets in Parquet, as the hub lays them out."""
    import pyarrow
    from pyarrow import parquet

    folder = tmp_path_factory.mktemp("repository")
    for subset in ("en", "fr"):
        (folder / subset).mkdir()
        for split, count in (("train", 300), ("test", 40)):
            texts = [f"{subset} {split} paragraph {n}" for n in range(count)]
            talks = [[{"role": "user", "content": text}] for text in texts]
            table = pyarrow.table({"text": texts, "talk": talks})
            parquet.write_table(table, folder / subset / f"{split}-00000-of-00001.parquet")
    configs = "".join(
        f"  - config_name: {s}\n    data_files:\n"
        + "".join(f"      - {{split: {x}, path: {s}/{x}-*}}\n" for x in ("train", "test"))
        for s in ("en", "fr")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n# A data set\n")
    return folder


def read(folder: Path, **fields: Any) -> tuple[str, ...]:
    asked = {"subset": "en", "split": "train", "revision": "", "field": "", "limit": 1 << 20} | fields
    found = hub_rows.read(str(folder), role="calibration", where="calibration.", **asked)
    return tuple(document.words for document in found)


def test_rows_of_a_subset_and_split(repository: Path) -> None:
    train = read(repository)
    assert 100 < len(train) < 200
    assert all(words.startswith("en train paragraph") for words in train)
    assert {words[:8] for words in read(repository, subset="fr", split="test")} == {"fr test "}
    assert read(repository, field="talk") == train, "a message of the same words is on the same side"
    assert len(read(repository, limit=1000)) < 60, "no further than needed"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": "dev"}, r"Bad split: dev"),
        ({"subset": "de"}, r"BuilderConfig 'de' not found"),
        ({"subset": ""}, r"Config name is missing"),
        ({"field": "body"}, r"^calibration\.field: .* row 1 has no field 'body'; its fields: text, talk"),
    ],
)
def test_what_is_refused(repository: Path, fields: dict[str, str], message: str) -> None:
    with pytest.raises(TextError, match=message) as raised:
        read(repository, **fields)
    assert "\n" not in str(raised.value)


def test_code_and_formats_that_are_no_rows_of_text_are_refused(tmp_path: Path) -> None:
    for name in ("script", "audio"):
        (tmp_path / name).mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit('this ran')")
    (tmp_path / "audio" / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(TextError, match="Dataset scripts are no longer supported"):
        read(tmp_path / "script", subset="")
    with pytest.raises(TextError, match="its files are audiofolder; allowed are arrow, csv, json, parquet, text"):
        read(tmp_path / "audio", subset="")


@pytest.mark.slow
def test_the_endpoint_and_the_token_are_the_environment_s(repository: Path, tmp_path: Path) -> None:
    """The stand-in gets requests for the pinned commit and the needed files only, with the token."""
    code = (
        "import sys, json; from quantmill.errors import TextError; from quantmill.recipe.texts import TextSource\n"
        "from tasks.text import sources as text_sources\n"
        "for asked in json.loads(sys.argv[1]):\n"
        "    try:\n"
        "        print(len(text_sources.take(TextSource(**asked), 'evaluation', 100, 'evaluation.')))\n"
        "    except TextError as error:\n"
        "        print(error)\n"
    )
    good = {"source": "dataset://org/name", "revision": COMMIT, "subset": "fr"}
    asked = [good, good | {"revision": "f" * 40}, good | {"source": "dataset://org/other"}]
    (tmp_path / "org" / "name").mkdir(parents=True)  # a folder of that name is not taken for it
    with served(repository, "org/name") as (endpoint, requests):
        environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_TOKEN": "made-up", "HF_HOME": str(tmp_path / "hf")}
        environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
        command = [sys.executable, "-c", code, json.dumps(asked)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert 100 < int(lines[0]) < 200
    assert lines[1] == "evaluation.source: org/name: the hub has no such file or revision (HTTP 404)"
    assert lines[2].startswith("evaluation.source: org/other: cannot be read: DatasetNotFoundError")
    assert {token for _, _, token in requests} == {"Bearer made-up"}
    fetched = {path.rpartition("/resolve/")[2] for _, path, _ in requests if path.endswith(".parquet")}
    assert fetched == {f"{COMMIT}/fr/train-00000-of-00001.parquet"}
