"""Telling a run that has gone wrong from one that is only noisy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from training.curves import Passed

_KEEP = 0.95  # of the smoothed loss, at every new value


class SpikeWatch:
    """Compares each group's loss with its own smoothed past, since tasks differ in scale.

    A value above `factor` times the past is a spike, and does not become part of it. `patience`
    spikes of one group in a row are no chance. A `factor` of 0 sees none.
    """

    def __init__(self, factor: float, patience: int, smooth: Mapping[str, float]) -> None:
        self._factor, self._patience = factor, patience
        self.smooth = dict(smooth)
        self._in_a_row: dict[str, int] = {}

    @property
    def calm(self) -> bool:
        """Whether every group's last value was an ordinary one."""
        return not self._in_a_row

    def add(self, passes: Sequence[Passed], judge: bool) -> str | None:
        """Counts a step's losses in; what is wrong with them, if anything is.

        Without `judge` it only learns what is ordinary, as during warm-up.
        """
        values = defaultdict(list)
        for passed in passes:
            values[passed.group].append(passed.loss)
        for group, losses in values.items():
            loss = sum(losses) / len(losses)
            past = self.smooth.get(group, loss)
            if judge and self._factor and 0 < self._factor * past < loss:
                self._in_a_row[group] = count = self._in_a_row.get(group, 0) + 1
                if count >= self._patience:
                    return f"the loss of {group} is {loss:.4g} after {past:.4g}, {count} times"
            else:
                self._in_a_row.pop(group, None)
                self.smooth[group] = _KEEP * past + (1 - _KEEP) * loss
        return None


@torch.no_grad()
def are_finite(parameters: Sequence[Tensor]) -> bool:
    """Whether there is no NaN or infinity in what this process holds."""
    own = [p.to_local() if isinstance(p, DTensor) else p for p in parameters]
    return bool(torch.stack([p.isfinite().all() for p in own]).all())
