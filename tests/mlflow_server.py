"""A real MLflow server in a process of its own, on loopback; it can be down for a while and come back where it was."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


class MlflowServer:
    """A server with its database and artifacts in a folder."""

    def __init__(self, folder: Path, empty: Path) -> None:
        """Take a free port, and a copy of an empty database; down at first."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._folder = folder
        shutil.copyfile(empty, folder / "server.db")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        backend = f"--backend-store-uri=sqlite:///{self._folder / 'server.db'}"
        places = [backend, "--serve-artifacts", f"--artifacts-destination={self._folder / 'served'}"]
        log = self._folder / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "mlflow",
                    "server",
                    "--host=127.0.0.1",
                    f"--port={self.port}",
                    "--workers=1",
                    *places,
                ],
                cwd=self._folder,
                env={**os.environ, **quiet},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise TimeoutError(log.read_text())

    def stop(self) -> None:
        """Stop it; the port refuses from now on."""
        if self._process:
            os.killpg(self._process.pid, 15)  # the server starts workers of its own
            self._process.wait(20)
            self._process = None
