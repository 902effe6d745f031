"""Users of one machine, each a process of its own with a clock that tests can move.

As root, uid, groups and umask are real.

The process takes commands as lines of JSON and answers each with a line. It moves the clock that it sees: `time.time`, and the
times of files. A file's time moves by the amount by which the clock was moved when the file was written.
"""

import json
import os
import subprocess
import sys
import time
from bisect import bisect_right
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GROUP = 61_000
DAY_S = 86_400.0


class User:
    """A person who types commands; as root `User(1)` and `User(2)` are two users of one group."""

    def __init__(self, number: int, home: Path) -> None:
        home.mkdir()
        self.home = home
        if os.geteuid() == 0:
            os.chown(home, GROUP + number, GROUP + number)
        environment = {n: v for n, v in os.environ.items() if not n.startswith(("QUANTMILL_", "AWS_"))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.users", str(number), str(home)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env=environment | {"QUANTMILL_HOME": str(home / "home"), "COLUMNS": "200"},
        )  # fmt: skip

    def does(self, what: str, *arguments: Any) -> dict[str, Any]:
        """Have the process do a command of `_Acts`, and return its answer."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([what, *arguments], default=str) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the user's process ended: {self._process.wait()}"
        return dict(json.loads(line))

    def types(self, *words: object) -> tuple[int, str]:
        """Type a command of `quantmill`; return its exit code and all its output."""
        said = self.does("type", *words)
        return said["code"], said["said"]

    def leaves(self) -> None:
        """End the process."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(20)


class _Clock:
    """The moved clock of this process: a list of moves in order, each with its start and its amount."""

    def __init__(self) -> None:
        self._moves: list[tuple[float, float]] = [(0.0, 0.0)]
        self._time, self._stat, self._lstat = time.time, os.stat, os.lstat
        time.time = lambda: self.shown(self._time())
        os.stat = lambda *a, **k: self._aged(self._stat(*a, **k))  # type: ignore[assignment]
        os.lstat = lambda *a, **k: self._aged(self._lstat(*a, **k))

    def set(self, moves: list[tuple[float, float]]) -> None:
        self._moves = [(0.0, 0.0), *(tuple(move) for move in moves)]

    def shown(self, seconds: float) -> float:
        return seconds + self._moves[bisect_right(self._moves, (seconds, float("inf"))) - 1][1]

    def _aged(self, state: os.stat_result) -> os.stat_result:
        names = [name for name in dir(state) if name.startswith("st_")]
        named = {name: getattr(state, name) for name in names}
        for name in ("st_atime", "st_mtime", "st_ctime"):
            named[name] = self.shown(named[name])
            named[f"{name}_ns"] = int(named[name] * 1e9)
        plain = [*tuple(state)[:7], *(int(named[name]) for name in ("st_atime", "st_mtime", "st_ctime"))]
        return os.stat_result(plain, named)


class _Acts:
    """What a user can be told to do."""

    def __init__(self, home: Path, clock: _Clock) -> None:
        self._home, self._clock = home, clock

    def clock(self, *moves: list[float]) -> dict[str, Any]:
        self._clock.set([(move[0], move[1]) for move in moves])
        return {"now": time.time()}

    def type(self, *words: str) -> dict[str, Any]:
        """Type a command of `quantmill`; errors become the same words as in `main`."""
        import contextlib
        import io

        from quantmill import cli

        said, before = io.StringIO(), sys.argv
        sys.argv = ["quantmill", *map(str, words)]
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            sys.argv = before
            cli._add_factory = lambda: None  # once is enough: each call adds the commands again
        return {"code": code, "said": said.getvalue()}

    def publish(self, place: str, model: str, variant: str, seed: int, numbers: int = 1000) -> dict[str, Any]:
        """Store a version's folder and publish it, as the factory does."""
        from quantmill.errors import QuantmillError
        from quantmill.store.places import open_store
        from tests.published import describe, folder
        from tests.samples import version

        store = open_store(place)
        made = self._home / f"{model}-{variant}-{seed}-{time.monotonic_ns()}"
        try:
            entries = store.add_folder(folder(made, seed, numbers))
            manifest = describe(entries, variant).model_copy(update={"name": f"{model}/{variant}"})
            store.commit(manifest, version(manifest, made_at=time.time(), model=model, variant=variant))
        except (QuantmillError, OSError) as error:
            return {"error": type(error).__name__, "said": str(error)}
        return {"digest": manifest.digest}

    def abandon(self, place: str, seed: int, numbers: int = 1000) -> dict[str, Any]:
        """Store a folder that no record names, as a dying run would, and leave its lease."""
        from quantmill.store.places import open_store
        from tests.published import folder

        store = open_store(place)
        store.add_folder(folder(self._home / f"abandoned-{seed}", seed, numbers))
        if store.leases._renewal:
            store.leases._renewal.cancel()
        return {}


def _become(number: int) -> None:
    """Become a user, with a umask that lets nobody in; without root only the umask changes."""
    if os.geteuid() == 0:
        os.setgroups([GROUP])
        os.setgid(GROUP + number)
        os.setuid(GROUP + number)
    os.umask(0o077)


def main() -> None:
    """Do the commands from standard input, line by line, until its end."""
    number, home = int(sys.argv[1]), Path(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    import tempfile

    with (
        tempfile.TemporaryDirectory() as place
    ):  # what is imported late is imported now: root's interpreter may be closed to users
        acts = _Acts(Path(place), _Clock())
        store = str(Path(place) / "store")
        acts.publish(store, "m", "gguf-q8_0", 1)
        warm = ["--store", store]
        acts.type("promote", "m", "gguf-q8_0", "--channel", "stable", "--reason", "r", *warm)
        acts.type("pull", "m", "--to", str(Path(place) / "to"), *warm)
        acts.type("verify", str(Path(place) / "to"))
        for words in (["gc", "--dry-run"], ["gc"], ["list"], ["show", "m"], ["show", "n"]):
            acts.type(*words, *warm)
    acts = _Acts(home, acts._clock)
    _become(number)
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        answers.write(json.dumps(getattr(acts, what)(*arguments)) + "\n")


if __name__ == "__main__":
    main()
