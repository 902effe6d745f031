"""Parts of large objects: their length, the number that moves at once, and the memory limit."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

PART_BYTES = 8 << 20
_MOST_PARTS = 9000
_MEMORY_BYTES = 96 << 20


def part_bytes(size: int) -> int:
    """Return the part length for an object of `size` bytes; equal for all senders, so any can resume."""
    return max(PART_BYTES, -(-size // _MOST_PARTS >> 20 << 20))


class Parts:
    """The threads that move the parts of all files of a bucket, and the memory limit of moving parts."""

    threads = 10

    def __init__(self) -> None:
        """Start with no memory in use; the threads start with the first part."""
        self._held = 0
        self._changed = threading.Condition()

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        """The thread pool."""
        return ThreadPoolExecutor(self.threads, "s3-part")

    def take(self, count: int) -> None:
        """Wait for `count` bytes of the memory limit and take them; a single part may always move."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + count <= _MEMORY_BYTES)
            self._held += count

    def give_back(self, count: int, *_: object) -> None:
        """Give back `count` bytes that `take` took."""
        with self._changed:
            self._held -= count
            self._changed.notify_all()
