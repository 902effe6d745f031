"""What lies at a place that is watched: each model with its revision, once it is whole and can be compressed.

A hub's commit and a version in MLflow are whole when they can be seen. A folder or a prefix is being filled for a while: it
counts once nothing changed for some time and the config, the tokenizer and every part that the index names are there.
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
    """Yield what lies at an entry's place and is not known yet.

    Args:
        entry: the place.
        home: what is remembered of sources lies under it.
        known: whether a revision of a model was seen before; nothing more is asked about it.
        earlier: the entries before it in the watch list; a model that one of them matches is that entry's, also where
            it does not take it.

    Raises:
        QuantmillError, OSError: the place itself cannot be read.
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
        except (QuantmillError, OSError) as error:
            yield NotYet(found.model, str(error))
            continue
        if not known(sight.model, sight.revision):
            yield sight
