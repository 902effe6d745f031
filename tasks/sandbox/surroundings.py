"""What a job finds around it: an empty folder, an environment without secrets, the machine shared or to itself."""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from quantmill.machine import locks

_SECRET = ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "API_KEY", "ACCESS_KEY", "AUTH_STRING", "NOTIFY_URL")
_SECRET_VALUE = re.compile(r"://[^/\s]*@|[?&][\w-]*(?:signature|token|key|sig)=", re.IGNORECASE)
_LOOK_S = 0.05
_FACTORY = ("PREFECT_", "MLFLOW_", "AWS_", "QUANTMILL_")  # what only our side reads: places, logins, keys


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """Lend an empty folder, removed at the end; folders that a killed run left are removed first."""
    root.mkdir(parents=True, exist_ok=True)
    for stale in root.iterdir():
        with suppress(OSError), locks.held(stale / "lock", wait=False, create=False):
            shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(dir=root))
    with locks.held(folder / "lock"):
        for name in ("out", "work", "tmp"):
            (folder / name).mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def machine_held(alone: bool, waiting: Callable[[], None] = lambda: None) -> Iterator[int]:
    """Hold this machine with other jobs, or alone: what is measured beside another job says nothing.

    The lock is the machine's, not the home's, and goes with the processes that hold it: lends its descriptor, which a job
    that was given it can turn into a shared one. `waiting` is called again and again until the machine is free, and before
    it is held; what it raises ends the wait.
    """
    path = Path(tempfile.gettempdir()) / f"quantmill-{os.getuid()}.lock"
    with ExitStack() as stack:
        while True:
            try:
                lock = stack.enter_context(locks.held(path, shared=not alone, wait=False))
                break
            except BlockingIOError:
                waiting()
                time.sleep(_LOOK_S)
        waiting()
        yield lock


def environment(folder: Path, threads: int, alone: bool) -> dict[str, str]:
    """Return the environment of a job: ours without secrets, offline, with its own temporary folder and thread count."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not any(word in name.upper() for word in _SECRET)
        and not name.startswith(_FACTORY)
        and not _SECRET_VALUE.search(value)  # a login in a URL, a URL that is signed
    }
    root = str(Path(__file__).resolve().parents[2])
    if not alone:  # spinning threads take the processor from other jobs; speed is measured as it comes
        kept["OMP_WAIT_POLICY"] = "PASSIVE"
    return kept | {
        "PYTHONPATH": root,
        "TMPDIR": str(folder / "tmp"),
        "HF_HUB_OFFLINE": "1",
        "GPTQMODEL_OFFLINE": "1",  # else it fetches a kernel's sources where the GPU is a Hopper
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TERM": "dumb",  # GPTQModel redraws bars elsewhere
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
