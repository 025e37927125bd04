"""How much memory processes hold (Linux)."""

import gc
import os
import re
from collections.abc import Iterable
from pathlib import Path


def resident_mb(pid: int) -> float:
    """Return what one process holds, in MB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1000


def own_resident_mb() -> float:
    """Return what this process holds without its garbage, in MB."""
    gc.collect()
    return resident_mb(os.getpid())


def children(pid: int) -> Iterable[int]:
    """Return the processes that a process has started and not outlived."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
