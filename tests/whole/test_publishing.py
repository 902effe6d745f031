"""From acceptance to consumers: card, channel, licence, and MLflow down for a while.

The command line's own process runs all steps.

The steps follow each other on one home, as a person's commands would.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from mlflow import MlflowClient

from quantmill.store import channels
from quantmill.store.places import open_store
from tests.line import Line
from tests.mlflow_server import MlflowServer

pytestmark = pytest.mark.slow

NAME = "bitsandbytes-int8"
RECIPE: dict[str, Any] = {
    "evaluation": {"samples": 4, "sequence_length": 128, "seed": 1},
    "variants": [{"method": "bitsandbytes", "bits": 8}],
    "gates": {"max_perplexity_ratio": 2, "max_mean_kl": 1},
    "publish": {"model": "tiny", "channel": "stable"},
}


def run(line: Line, *arguments: str) -> tuple[dict[str, Any], str]:
    """Return the summary and what was printed."""
    place = line.starts.parent / "summary.json"
    process = line.start("--json", str(place), *arguments)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output[-5000:]
    return json.loads(place.read_text()), output


def test_what_was_accepted_reaches_those_who_wait_for_it(
    trained: Path, empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = MlflowServer(tmp_path, empty_mlflow)
    monkeypatch.setenv("QUANTMILL_MLFLOW_URI", server.url)
    line = Line(tmp_path / "line", tmp_path / "home", RECIPE | {"model": {"source": str(trained)}})
    store = open_store(line.home / "store")

    first, said = run(line)
    (row,) = first["variants"]
    assert (first["channel"], first["channel_seq"], first["mlflow_run"]) == ("stable", 1, "")
    assert said.count("MLflow at http://127.0.0.1") == 1
    assert "1 runs wait for it" in said
    assert "tiny/stable at move 1" in said
    the_card_is_sound(line.home, row["manifest"])

    line.clear()
    again, said = run(line)
    assert again["channel_seq"] == 1
    assert again["variants"][0]["cached"]
    assert line.started() == []

    server.start()
    try:
        _, said = run(line)
        assert "1 waiting runs registered" in said
        assert "wait for it" not in said
        client = MlflowClient(tracking_uri=server.url, registry_uri=server.url)
        (version,) = client.search_model_versions("name = 'tiny'")
        assert version.tags["quantmill.manifest"] == row["manifest"]
    finally:
        server.stop()
    monkeypatch.delenv("QUANTMILL_MLFLOW_URI")

    a_rerun_does_not_undo_a_rollback(line, row["manifest"])

    monkeypatch.setenv("QUANTMILL_LICENSES", "mit, own")
    stopped, said = run(line)
    (held,) = stopped["variants"]
    assert (held["status"], held["manifest"], held["marks"][-1]) == ("accepted", None, "not published")
    assert "not published: its licence 'apache-2.0' is not allowed; QUANTMILL_LICENSES allows mit, own" in said
    assert stopped["mlflow_run"], "it was made and measured, and MLflow is told"
    assert len(store.versions("tiny", NAME)) == 1


def the_card_is_sound(home: Path, digest: str) -> None:
    """Check the card of the published version."""
    store = open_store(home / "store")
    manifest = store.manifest(digest)
    assert [file.path for file in manifest.files].count("README.md") == 1
    store.fetch(manifest.files, home / "laid-out")
    card = ModelCard.load(home / "laid-out" / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.tags[:2] == ["bitsandbytes", "8-bit"]
    assert manifest.evaluation.baseline
    assert f"{manifest.evaluation.baseline.perplexity:.3f}" in card.text
    assert digest not in card.text


def a_rerun_does_not_undo_a_rollback(line: Line, digest: str) -> None:
    """Check that a channel that was moved on stays where it was moved to."""
    store = open_store(line.home / "store")
    channels.drop(store, "tiny", "stable", digest, "rambles")
    summary, _ = run(line)
    assert summary["channel_seq"] == 2
    held = channels.read_channel(store, "tiny", "stable")
    assert held
    assert held.current.variants == {}
