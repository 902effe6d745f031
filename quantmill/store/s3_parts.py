"""Parts of large objects: how they are cut, how many move at once, and how much memory they may hold."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

PART_BYTES = 8 << 20
_MOST_PARTS = 9000
_MEMORY_BYTES = 96 << 20


def part_bytes(size: int) -> int:
    """Return the length of the parts of an object: the same for everyone who sends it, so that any can go on."""
    return max(PART_BYTES, -(-size // _MOST_PARTS >> 20 << 20))


class Parts:
    """The threads that move parts, for all the files of a place, and the memory that parts under way may hold."""

    threads = 10

    def __init__(self) -> None:
        """Nothing is started before the first part."""
        self._held = 0
        self._changed = threading.Condition()

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        """The threads."""
        return ThreadPoolExecutor(self.threads, "s3-part")

    def take(self, count: int) -> None:
        """Wait until `count` bytes of memory are free for a part; one part may always move."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + count <= _MEMORY_BYTES)
            self._held += count

    def give_back(self, count: int, *_: object) -> None:
        """Free what `take` took."""
        with self._changed:
            self._held -= count
            self._changed.notify_all()
