"""The surroundings of a job: an empty folder, an environment without secrets, the machine's lock."""

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
_FACTORY = ("PREFECT_", "MLFLOW_", "AWS_", "QUANTMILL_")  # read by the parent only: addresses, logins, keys


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """Yield an empty folder and delete it at the end; first delete the folders that killed runs left."""
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
    """Hold the machine's lock, shared or `alone`, and yield its descriptor.

    Speed that is measured beside another job says nothing, so such a job starts alone. The lock belongs to the machine, not
    to the home. The kernel releases it when all processes that hold the descriptor end; a job that inherited the descriptor
    can turn the lock into a shared lock. `waiting` is called repeatedly until the lock is free, and once more when the lock
    is taken; an exception from it ends the wait.
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
    """Return the environment variables of a job.

    These are the parent's variables without secrets, with offline settings, the job's temporary folder and its threads.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not any(word in name.upper() for word in _SECRET)
        and not name.startswith(_FACTORY)
        and not _SECRET_VALUE.search(value)  # a login in a URL, or a signed URL
    }
    root = str(Path(__file__).resolve().parents[2])
    if not alone:  # spinning threads would take the processor from other jobs; a job alone keeps the default
        kept["OMP_WAIT_POLICY"] = "PASSIVE"
    return kept | {
        "PYTHONPATH": root,
        "TMPDIR": str(folder / "tmp"),
        "HF_HUB_OFFLINE": "1",
        "GPTQMODEL_OFFLINE": "1",  # else GPTQModel downloads a kernel's sources on a Hopper GPU
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TERM": "dumb",  # GPTQModel redraws bars elsewhere
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
