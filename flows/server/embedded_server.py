"""The process of the embedded server: serves Prefect's API on a loopback port while its parent lives."""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from quantmill.machine import locks

READY = "ready "
"""The start of the line that tells the parent the port."""


def _die_with_parent() -> None:
    """Exit at once when stdin ends, which means that the parent is gone.

    An orderly end is not needed: nobody is left to report to, and SQLite recovers from its journal.
    """
    while os.read(0, 4096):
        pass
    os._exit(0)


def main() -> None:
    """Serve Prefect's API on a free loopback port until stdin ends or SIGTERM comes.

    The port goes to stdout.
    """
    threading.Thread(target=_die_with_parent, name="parent", daemon=True).start()
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # All other output goes into the log.
    home = Path(os.environ["PREFECT_HOME"])
    # Bound here and handed over, so that no other process can take the port in between.
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    os.environ["PREFECT_SERVER_UI_API_URL"] = f"http://127.0.0.1:{port}/api"
    with ExitStack() as migrating:
        # Two processes cannot migrate one SQLite file at once; after the migration they can share the file.
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
