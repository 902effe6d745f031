"""Fixtures that several test modules share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.embedded import prefect_api


@pytest.fixture(scope="session")
def embedded_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the session's embedded Prefect server."""
    return tmp_path_factory.mktemp("embedded")


@pytest.fixture(scope="session")
def prefect_url(embedded_home: Path) -> Iterator[str]:
    """The API of the session's embedded Prefect server; one for all, because the first start takes many seconds."""
    with prefect_api(embedded_home) as url:
        yield url
