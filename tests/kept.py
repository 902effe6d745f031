"""The folder in which the tests keep slow results from one run to the next."""

import os
from pathlib import Path

KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quantmill-tests"
