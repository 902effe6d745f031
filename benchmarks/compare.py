"""Compares the demo with the same work done by hand: `python -m benchmarks.compare` after `make demo`.

Copies the run's token windows and artifacts from the store to a scratch folder. Then `by_hand.py`, which shares no code with
the project, makes and measures everything again. Exit code 1: a perplexity differs by more than 0.1 %, or a tensor differs.
Takes about fifteen minutes on two cores; with --out an interrupted run continues.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from quantmill.records.artifact import Artifact, Snapshot, TokenSet
from quantmill.settings import load_settings
from quantmill.store.places import configured_store


def main() -> int:
    """Return `by_hand.py`'s exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default="smollm2-135m-instruct", help="the published name of the run to compare with"
    )
    parser.add_argument("--out", type=Path, help="keep by_hand's files here")
    options = parser.parse_args()
    settings = load_settings()
    summary = settings.home / "reports" / options.model / "summary.json"
    run = json.loads(summary.read_text(encoding="utf-8"))
    store = configured_store(settings)

    def results(stage: str) -> list[dict[str, object]]:
        return [json.loads(path.read_text())["value"] for path in Path(store.uri, "stages", stage).glob("*.json")]

    with tempfile.TemporaryDirectory(dir=settings.home) as scratch:
        place = Path(scratch)
        snapshots = [Snapshot.model_validate(value) for value in results("snapshot")]
        snapshot = next(s for s in snapshots if s.origin.digest == run["source_digest"])
        for tokens in (TokenSet.model_validate(value) for value in results("tokens")):
            store.fetch((tokens.file,), place)
        for artifact in (Artifact.model_validate(value) for value in results("artifact")):
            if artifact.digest in [row["artifact"] for row in run["variants"]]:
                store.fetch(artifact.files, place / "artifacts" / artifact.spec.name)
        command = [sys.executable, str(Path(__file__).with_name("by_hand.py"))]
        command += ["--source", str(settings.home.absolute() / "snapshots" / snapshot.digest)]
        command += [f"--{role}={place / role}.safetensors" for role in ("calibration", "evaluation")]
        command += ["--summary", str(summary), "--artifacts", str(place / "artifacts")]
        command += ["--out", str(options.out or place / "by_hand")]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
