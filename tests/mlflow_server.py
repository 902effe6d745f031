"""A real MLflow server in its own process, on loopback; it can stop and start again at its address."""

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from infra.stack.parts import mlflow_command, mlflow_environment


class MlflowServer:
    """A server with its database and artifacts in a folder."""

    def __init__(self, folder: Path, empty: Path) -> None:
        """Take a free port and a copy of an empty database; do not start the server yet."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._folder = folder
        shutil.copyfile(empty, folder / "server.db")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        log = self._folder / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                mlflow_command("127.0.0.1", self.port, self._folder / "server.db", self._folder / "served"),
                cwd=self._folder,
                env=mlflow_environment(os.environ),
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
        """Stop the server; its port refuses connections from now on."""
        if self._process:
            os.killpg(self._process.pid, 15)  # the server starts workers of its own
            self._process.wait(20)
            self._process = None
