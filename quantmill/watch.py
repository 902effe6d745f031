"""Keeps a folder at what a channel holds: what runs beside an inference server.

A round reads the channel and pulls where it moved. The command is called after a version became current, with its folder in
`QUANTMILL_PULLED`; what counts is that it ended with 0. Until then each round calls it again, also after a restart, so a server
hears of every version at least once. A store that does not answer, or holds what is refused, costs nothing but time:
what is current stays, and the next round comes later, up to sixteen times `every`.
"""

import os
import random
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from quantmill.client import Resolved, pull, resolve
from quantmill.errors import QuantmillError, RequestError
from quantmill.pulled import Place
from quantmill.selection import Goal
from quantmill.signing import Keyring
from quantmill.store.store import Store
from quantmill.where import parse

LONGEST = 16
_GRACE_S = 10
Say = Callable[[str], None]


class Watch:
    """What is watched, where it goes, and what is called."""

    def __init__(
        self,
        store: Store,
        model: str,
        channel: str,
        to: Path,
        *,
        where: str = "",
        best: Goal = "quality",
        hardware: str = "",
        variant: str = "",
        keyring: Keyring | None = None,
        command: str = "",
        every_s: float = 30.0,
        say: Say = print,
    ) -> None:
        """Check the request; nothing is read yet.

        Raises:
            RequestError: the expression or the command is malformed.
        """
        parse(where)
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise RequestError(f"--run: {command!r}: {error}") from error
        self._store, self._model, self._channel, self._to = store, model, channel, to
        self._asked = {"where": where, "best": best, "variant": variant, "hardware": hardware}
        self._keyring, self._every_s, self._say = keyring, every_s, say

    def run(self) -> None:
        """Watch until KeyboardInterrupt comes; it ends the command too, and is passed on."""
        failures = 0
        while True:
            try:
                self.round()
                failures = 0
            except (QuantmillError, OSError) as error:
                failures += 1
                self._say(f"{type(error).__name__}: {' '.join(str(error).split())}")
            time.sleep(pause_s(self._every_s, failures) * random.uniform(0.9, 1.1))  # or many consumers ask at once

    def round(self) -> Resolved:
        """Pull what the channel holds now and, where it is new, call the command.

        Raises:
            QuantmillError: see `resolve` and `pull`; or the command failed, and is called again in the next round.
        """
        place = Place(self._to)
        before = place.current
        chosen = resolve(self._store, self._model, self._channel, **self._asked)  # type: ignore[arg-type]
        began = time.monotonic()
        tree = pull(self._store, chosen, self._to, self._keyring)
        if chosen.digest != before:
            what = f"{chosen.variant}@{chosen.digest[:12]} (sequence {chosen.seq}, {chosen.size_bytes / 1e6:.1f} MB)"
            self._say(f"{what} is current after {time.monotonic() - began:.1f} s: {tree}")
        if self._command and place.state().told != chosen.digest:
            self._call(tree)
            with place.claimed(self._model):
                place.write(place.state().model_copy(update={"told": chosen.digest}))
        return chosen

    def _call(self, tree: Path) -> None:
        """Call the command; it is ended where we are."""
        environment = os.environ | {"QUANTMILL_PULLED": str(tree)}
        with subprocess.Popen(self._command, env=environment, stdin=subprocess.DEVNULL) as process:
            try:
                code = process.wait()
            except BaseException:
                process.terminate()
                try:
                    process.wait(_GRACE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                raise
        if code:
            raise QuantmillError(
                f"--run: {shlex.join(self._command)}: ended with {code}; called again in the next round"
            )
        self._say(f"called {shlex.join(self._command)}")


def pause_s(every_s: float, failures: int) -> float:
    """Return how long to wait after so many rounds that failed in a row."""
    return every_s * min(LONGEST, 2.0 ** max(0, min(failures, LONGEST) - 1))
