"""The gradients of one step: its micro-batches, wherever they are computed, and what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from training.checkpoint import TrainState
from training.curves import Passed
from training.distributed import Spread, World
from training.provenance import MacCounter

_SETTLED = 8  # micro-batches without a new group, after which none is expected


@dataclass(frozen=True)
class StepResult:
    """Named loss parts (their sum is minimised), and how many samples the micro-batch saw."""

    parts: Mapping[str, Tensor]
    samples: int
    group: str  # what the curves are named after, such as the task


Compute = Callable[[int], StepResult]


class Gradients:
    """Leaves the mean gradient of a step's micro-batches in the parameters."""

    def __init__(
        self,
        spread: Spread[StepResult],
        world: World,
        micro_batches: int,
        counter: Callable[[], MacCounter],
        pass_macs: Mapping[str, int],
    ) -> None:
        self._spread, self._world, self._count = spread, world, micro_batches
        self._counter, self._macs = counter, dict(pass_macs)
        self._met = set(pass_macs)
        self._quiet = _SETTLED if pass_macs else 0

    def of(self, step: int) -> list[Passed]:
        """Computes the own micro-batches; what all processes found, in the micro-batches' order."""
        own = self._world.own(self._count)
        done = [self._backward(step * self._count + micro, last=micro == own[-1]) for micro in own]
        # Only now, when all is queued, the host waits for the device.
        return self._world.gathered([_read(result, macs) for result, macs in done])

    def _backward(self, index: int, last: bool) -> tuple[StepResult, int | None]:
        """One pass; its MACs are counted until each group's are known."""
        counter = None
        if self._quiet < _SETTLED or self._met - self._macs.keys():
            counter = self._counter()
        with counter or nullcontext():
            result = self._spread.backward(index, last)
        self._quiet = self._quiet + 1 if result.group in self._met else 0
        self._met.add(result.group)
        if counter is not None:
            self._macs[result.group] = counter.macs
        return result, self._macs.get(result.group)


def advanced(state: TrainState, passes: Sequence[Passed]) -> TrainState:
    """The state one step later."""
    known = {passed.group: passed.macs for passed in passes if passed.macs is not None}
    return replace(
        state,
        step=state.step + 1,
        samples=state.samples + sum(passed.samples for passed in passes),
        passes=dict(Counter(state.passes) + Counter(passed.group for passed in passes)),
        pass_macs={**state.pass_macs, **known},
    )


def _read(result: StepResult, macs: int | None) -> Passed:
    values = torch.stack([part.detach().float() for part in result.parts.values()]).tolist()
    return Passed(result.group, dict(zip(result.parts, values, strict=True)), result.samples, macs)
