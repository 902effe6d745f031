"""Follows a channel into a folder, beside an inference server.

A round reads the channel and pulls if the channel moved. After a version became current, the command is called with the version's
folder in `QUANTMILL_PULLED`. Each round calls the command again until it ends with 0, also after a restart, so a server is told of
every version at least once. If the store does not answer, or a version is refused, the current version stays and the next round
comes later, after up to sixteen times `every`.
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
    """Keeps one folder at the state of one channel, and calls a command after each change."""

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

        `limit_s`: seconds that a command may take; None: no limit.

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
        """Run rounds until KeyboardInterrupt, which also ends the command and is raised again."""
        failures = 0
        while True:
            try:
                served = self.round()
                self._say(f"{served.variant}@{served.digest[:12]} is current (sequence {served.seq})")
                failures = 0
            except (QuantmillError, OSError) as error:
                failures += 1
                self._say(f"{type(error).__name__}: {' '.join(str(error).split())}")
            time.sleep(
                pause_s(self._every_s, failures) * random.uniform(0.9, 1.1)
            )  # keeps many consumers from asking at once

    def round(self) -> Resolved:
        """Pull the channel's version, call the command if it has not succeeded for it, and return the version.

        Raises:
            QuantmillError: see `resolve` and `pull`; or the command failed, and the next round calls it again.
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
        """Report in every round that the current version was revoked; call `--run-revoked` until it succeeds."""
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
        """Raise RequestError if the format would change, because the server could not load the new format."""
        served = read_records(place.tree(before))[0].manifest.variant["format"]
        found = chosen.manifest.variant["format"]
        if served != found:
            raise RequestError(
                f"{chosen.variant}@{chosen.digest[:12]}: its format is {found}, the current format is {served};"
                " --any-format lets it change, --where format=... or --variant keeps it"
            )


def _words(option: str, command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise RequestError(f"{option}: {command!r}: {error}") from error


def pause_s(every_s: float, failures: int) -> float:
    """Return the seconds to wait after `failures` failed rounds in a row."""
    return every_s * min(LONGEST, 2.0 ** max(0, min(failures, LONGEST) - 1))
