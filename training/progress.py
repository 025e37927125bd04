"""How far a run is: a live display on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@dataclass(frozen=True)
class Pace:
    """What is shown after a step; all but `step` changes only when curves are written."""

    step: int
    losses: Mapping[str, float] = field(default_factory=dict)  # by group/part
    samples_per_s: float | None = None
    learning_rate: float = 0.0
    fresh: bool = False  # whether the numbers are new

    @property
    def text(self) -> str:
        """The numbers in one line, empty before the first."""
        if self.samples_per_s is None:
            return ""
        losses = " ".join(f"{name}={value:.4g}" for name, value in sorted(self.losses.items()))
        return f"{self.samples_per_s:.4g} samples/s lr={self.learning_rate:.3g} {losses}"


Show = Callable[[Pace], None]


@contextmanager
def shown(begun: int, steps: int, console: Console | None) -> Iterator[Show]:
    """A function that shows each step of a run that goes on from step `begun`; None is silent."""
    if console is None:
        yield _nothing
    elif console.is_terminal:
        with _live(begun, steps, console) as show:
            yield show
    else:
        yield _lines(begun, steps, console)


def _nothing(pace: Pace) -> None:
    del pace


@contextmanager
def _live(begun: int, steps: int, console: Console) -> Iterator[Show]:
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        task = progress.add_task("", total=steps, completed=begun)

        def show(pace: Pace) -> None:
            progress.update(task, completed=pace.step, description=pace.text)

        yield show


def _lines(begun: int, steps: int, console: Console) -> Show:
    since = time.monotonic()

    def show(pace: Pace) -> None:
        if not pace.fresh:
            return
        per_step_s = (time.monotonic() - since) / max(1, pace.step - begun)
        left = timedelta(seconds=round(per_step_s * (steps - pace.step)))
        text = f"step {pace.step}/{steps}, {left} left: {pace.text}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    return show
