"""`percept` that on SIGUSR1 prints what its heap holds (glibc): memory without what is only free.

What a process holds of the machine swings by what its allocator keeps free; this does not.
"""

import ctypes
import gc
import re
import signal
import sys
from dataclasses import dataclass

from service.cli import main

SIGNAL = signal.SIGUSR1
_FOUND = re.compile(r"heap: (\d+) used, (\d+) free, (\d+) blocks")


@dataclass(frozen=True)
class Heap:
    """Bytes of malloc in use and free, and the number of Python's own small blocks."""

    used: int
    free: int
    blocks: int

    @classmethod
    def read_all(cls, log: str) -> "list[Heap]":
        """Return all that a server has printed."""
        return [cls(*map(int, found)) for found in _FOUND.findall(log)]


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _show(*_: object) -> None:
    gc.collect()
    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = _Mallinfo2
    said = libc.mallinfo2()
    used = said.uordblks + said.hblkhd
    line = f"heap: {used} used, {said.fordblks} free, {sys.getallocatedblocks()} blocks\n"
    sys.stderr.write(line)
    sys.stderr.flush()


if __name__ == "__main__":
    signal.signal(SIGNAL, _show)
    main()
