"""Finds the models at a watched place, with their revisions, once they can be compressed.

A commit of a hub and a version in MLflow are complete as soon as they are visible. A folder or a prefix takes a while to
fill: it counts as complete when nothing changed for some time, and the config, the tokenizer and every file that the index
names exist.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from quantmill.errors import DownloadError, QuantmillError
from tasks.landing.watchlist import WatchEntry
from tasks.source import places
from tasks.source.sights import NotYet, Sight


def look(
    entry: WatchEntry, home: Path, known: Callable[[str, str], bool], earlier: Sequence[WatchEntry] = ()
) -> Iterator[Sight | NotYet]:
    """Yield the new revisions of models at an entry's place, and the models that do not count yet.

    Args:
        entry: the entry of the watch list.
        home: the home folder; sources keep their caches in it.
        known: tells whether a revision of a model was seen before; such a revision is skipped.
        earlier: the earlier entries of the watch list; a model that matches one of them is skipped here.

    Raises:
        QuantmillError, OSError: the place cannot be read.
    """
    since = datetime.combine(entry.since, datetime.min.time(), UTC).timestamp()
    for found in places.find_models(entry.scheme, entry.place, entry.wants, home):
        if any(other.matches(found.model) for other in earlier):
            continue
        if isinstance(found, NotYet):
            yield found
            continue
        if found.changed_at < since or (found.revision and known(found.model, found.revision)):
            continue
        quiet = time.time() - found.changed_at
        if entry.settles and quiet < entry.quiet_s:
            yield NotYet(found.model, f"changed {max(quiet, 0):.0f} s ago; it counts after {entry.quiet_s:g} s")
            continue
        try:
            sight = found.look()
        except DownloadError:
            raise
        except (QuantmillError, OSError, ValueError) as error:  # ValueError: a name that no request can hold
            yield NotYet(found.model, " ".join(str(error).split())[:300])
            continue
        if not known(sight.model, sight.revision):
            yield sight
