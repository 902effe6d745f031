"""Keeps a folder at what a channel holds: what runs beside an inference server.

A round reads the channel and pulls where it moved. The command is called after a version became current, with its folder in
`QUANTMILL_PULLED`; what counts is that it ended with 0. Until then each round calls it again, also after a restart, so a server
hears of every version at least once. A store that does not answer, or holds what is refused, costs nothing but time:
what is current stays, and the next round comes later, up to sixteen times `every`.
"""

import random
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from quantmill.client.client import Resolved, pull, resolve
from quantmill.client.pulled import Place
from quantmill.client.tree import read_records
from quantmill.client.where import parse
from quantmill.errors import QuantmillError, RequestError
from quantmill.machine import call
from quantmill.records.selection import Goal
from quantmill.signing import Keyring
from quantmill.store.store import Store

LONGEST = 16
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
        run_revoked: str = "",
        limit_s: float | None = None,
        any_format: bool = False,
        every_s: float = 30.0,
        say: Say = print,
    ) -> None:
        """Check the request; nothing is read yet.

        `limit_s`: seconds that a command may take; None: as long as it takes.

        Raises:
            RequestError: the expression or a command is malformed.
        """
        parse(where)
        self._command, self._run_revoked = _words("--run", command), _words("--run-revoked", run_revoked)
        self._limit_s, self._any_format = limit_s, any_format
        self._store, self._model, self._channel, self._to = store, model, channel, to
        self._asked = {"where": where, "best": best, "variant": variant, "hardware": hardware}
        self._keyring, self._every_s, self._say = keyring, every_s, say

    def run(self) -> None:
        """Watch until KeyboardInterrupt comes; it ends the command too, and is passed on."""
        failures = 0
        while True:
            try:
                served = self.round()
                self._say(f"{served.variant}@{served.digest[:12]} is current (sequence {served.seq})")
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
        if before := place.current:
            self._mind_revocation(place, before)
        chosen = resolve(self._store, self._model, self._channel, **self._asked)  # type: ignore[arg-type]
        if before and not self._any_format:
            self._require_format(place, before, chosen)
        began = time.monotonic()
        tree = pull(self._store, chosen, self._to, self._keyring)
        if chosen.digest != before:
            what = f"{chosen.variant}@{chosen.digest[:12]} (sequence {chosen.seq}, {chosen.size_bytes / 1e6:.1f} MB)"
            self._say(f"{what} is current after {time.monotonic() - began:.1f} s: {tree}")
        if self._command and place.state().told != chosen.digest:
            call(self._command, {"QUANTMILL_PULLED": str(tree)}, self._limit_s, "--run")
            self._say(f"called {shlex.join(self._command)}")
            with place.claimed(self._model):
                place.write(place.state().model_copy(update={"told": chosen.digest}))
        return chosen

    def _mind_revocation(self, place: Place, digest: str) -> None:
        """Say that the version that is served was revoked, in every round, and call the command for that until it ends well."""
        variant = read_records(place.tree(digest))[0].manifest.name.removeprefix(f"{self._model}/")
        revoked = self._store.revocation(self._model, variant, digest)
        if revoked is None:
            return
        self._say(f"revoked: {variant}@{digest[:12]} is still served: {' '.join(revoked.reason.split())}")
        if self._run_revoked and place.told_revoked != digest:
            call(self._run_revoked, {"QUANTMILL_PULLED": str(place.tree(digest))}, self._limit_s, "--run-revoked")
            with place.claimed(self._model):
                place.tell_revoked(digest)
            self._say(f"called {shlex.join(self._run_revoked)}")

    def _require_format(self, place: Place, before: str, chosen: Resolved) -> None:
        """Raise RequestError where the format would change: the server that reads the folder could not go on."""
        served = read_records(place.tree(before))[0].manifest.variant["format"]
        found = chosen.manifest.variant["format"]
        if served != found:
            raise RequestError(
                f"{chosen.variant}@{chosen.digest[:12]}: its format is {found}, {served} is served; --any-format lets it"
                " change, --where format=... or --variant keeps it"
            )


def _words(option: str, command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise RequestError(f"{option}: {command!r}: {error}") from error


def pause_s(every_s: float, failures: int) -> float:
    """Return how long to wait after so many rounds that failed in a row."""
    return every_s * min(LONGEST, 2.0 ** max(0, min(failures, LONGEST) - 1))
