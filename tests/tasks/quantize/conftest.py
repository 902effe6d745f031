"""One bench for all tests of quantizers and both workers: each artifact is made once."""

from pathlib import Path

import pytest

from tests.tasks.quantize.bench import Bench


@pytest.fixture(scope="session")
def bench(tiny: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Bench:
    base = tmp_path_factory.getbasetemp()
    return Bench((base if worker_id == "master" else base.parent) / "bench", tiny)
