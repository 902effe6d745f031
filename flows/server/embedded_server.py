"""The embedded server's own process: Prefect's API on a free port of the loopback, for as long as its parent lives."""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from quantmill.machine import locks

READY = "ready "
"""Opens the line that tells the parent the port."""


def _die_with_parent() -> None:
    """Leave at the end of stdin. At once: there is nobody left to report to, and SQLite recovers by its journal."""
    while os.read(0, 4096):
        pass
    os._exit(0)


def main() -> None:
    """Serve Prefect's API on a free port of the loopback until stdin ends or SIGTERM comes; the port goes to stdout."""
    threading.Thread(target=_die_with_parent, name="parent", daemon=True).start()
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Whatever else prints goes into the log.
    home = Path(os.environ["PREFECT_HOME"])
    # Bound here and handed over, so that no other process can take the port in between.
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    os.environ["PREFECT_SERVER_UI_API_URL"] = f"http://127.0.0.1:{port}/api"
    with ExitStack() as migrating:
        # Two processes that migrate one SQLite file at once trip over each other; once migrated they share it.
        migrating.enter_context(locks.held(home / "migration.lock"))

        def ready() -> None:
            migrating.close()
            report.write(f"{READY}{port}\n")
            report.close()

        _serve(listener, ready)


def _serve(listener: socket.socket, ready: Callable[[], None]) -> None:
    import uvicorn
    from prefect.server.api.server import create_app

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready()

    app = create_app(final=True)
    # uvicorn's own set-up of logging would replace Prefect's.
    config = uvicorn.Config(app, log_config=None, log_level="warning", timeout_graceful_shutdown=5, lifespan="on")
    Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
