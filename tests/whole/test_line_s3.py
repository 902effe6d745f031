"""The line with a store in a bucket: a stage reads earlier results from the cache.

A second run makes nothing.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from quantmill.store.places import open_store
from tests.line import Line
from tests.proxy import proxy
from tests.s3_server import S3Server

pytestmark = pytest.mark.slow

RECIPE = {
    "calibration": {"samples": 4, "sequence_length": 128},
    "evaluation": {"samples": 4, "sequence_length": 128, "seed": 1},
    "variants": [{"method": "hqq", "bits": 8}],
    "gates": {"max_perplexity_ratio": 1.5, "max_mean_kl": 0.5},
    "publish": {"model": "tiny"},
}


def test_a_second_run_answers_from_the_bucket(
    trained: Path, tmp_path: Path, s3: str, s3_session: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTMILL_STORE", s3)
    line = Line(tmp_path / "line", tmp_path / "home", RECIPE | {"model": {"source": str(trained)}})
    with proxy(s3_session.endpoint) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        code, summary, started = line.run()
        assert not [request for request in between.requests if request.startswith("GET") and "/blobs/" in request]
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_session.endpoint)
    assert (code, [row["status"] for row in summary["variants"]]) == (0, ["accepted"])
    assert started
    code, again, started = line.run()
    assert (code, started, [row["cached"] for row in again["variants"]]) == (0, [], [True])
    assert not (tmp_path / "home" / "store").exists()
    (held,) = open_store(s3).versions("tiny", "hqq-8bit-g64")
    assert held.manifest == again["variants"][0]["manifest"]
    shown = subprocess.run(
        [sys.executable, "-m", "quantmill.cli", "list", "--json", "-"], capture_output=True, check=True
    )
    assert [model["model"] for model in json.loads(shown.stdout)["models"]] == ["tiny"]
