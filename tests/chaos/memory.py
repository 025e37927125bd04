"""How much memory processes hold (Linux)."""

import ctypes
import gc
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def resident_mb(pid: int) -> float:
    """Return what one process holds, in MB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1000


def own_resident_mb() -> float:
    """Return what this process holds without its garbage, in MB.

    What the allocator keeps of freed memory goes back first: tens of MB of it come and go with
    whatever ran before in the process.
    """
    gc.collect()
    with suppress(AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)
    return resident_mb(os.getpid())


def children(pid: int) -> Iterable[int]:
    """Return the processes that a process has started and not outlived."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
