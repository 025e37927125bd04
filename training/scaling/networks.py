"""What fixes one trained network, and what it cost: the rows that studies are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from types import MappingProxyType
from typing import Literal

from service.core.artifact import ScheduleSpec
from training.diffusion import SCHEDULE
from training.loop import Decay, LoopConfig
from training.models.counting import count
from training.models.dit import DiTConfig

Task = Literal["classes", "depth"]
Beginning = Literal["fresh", "extended", "upcycled", "further", "prolonged"]

BACKWARD = 3  # a training step costs about three forward passes


def _schedule(betas: Literal["linear", "scaled_linear", "cosine"], v: bool) -> ScheduleSpec:
    """Epsilon cannot start from pure noise, so only v gets a zero terminal signal."""
    ranges = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "cosine": (1e-4, 0.02)}
    start, end = ranges[betas]
    return ScheduleSpec(
        betas=betas,
        num_timesteps=1000,
        beta_start=start,
        beta_end=end,
        zero_terminal_snr=v,
        set_alpha_to_one=True,
        spacing="trailing",
        steps_offset=0,
        prediction_type="v" if v else "epsilon",
        sampler="ddim",
        start="noise",
    )


SCHEDULES: Mapping[str, ScheduleSpec] = MappingProxyType(
    {
        "v cosine": SCHEDULE,
        "v linear": _schedule("linear", v=True),
        "v scaled_linear": _schedule("scaled_linear", v=True),
        "epsilon cosine": _schedule("cosine", v=False),
        "epsilon linear": _schedule("linear", v=False),
        "epsilon scaled_linear": _schedule("scaled_linear", v=False),
    }
)
"""By what is predicted and how noise grows: DiT's linear, Stable Diffusion's, the cosine."""


@dataclass(frozen=True)
class Training:
    """How long and how fast one stage learns."""

    steps: int
    rows: int  # per step
    learning_rate: float
    warmup_steps: int
    decay: Decay
    final_fraction: float = 0.02  # of the learning rate
    weight_decay: float = 0.02


@dataclass(frozen=True)
class Network:
    """One network, from its beginning to the end of its own training.

    It begins `fresh`, or from its `parent`: `extended` by the condition's channels and the task's
    label, `upcycled` into experts, trained `further` on a new schedule, or `prolonged`, which is
    the parent's own run going on to a higher step.
    """

    name: str  # of its shape, such as "a4"
    model: DiTConfig
    task: Task
    size: int  # px
    training: Training  # of the whole run; a prolonged network's steps include its parent's
    seed: int
    schedule: str = "v cosine"
    beginning: Beginning = "fresh"
    parent: Network | None = None
    micro_batches: int = 1  # that one step of `rows` is cut into, for the memory of the machine
    recompute: bool = False
    bf16: bool = True

    def __post_init__(self) -> None:
        if (self.parent is None) != (self.beginning == "fresh"):
            raise ValueError(f"{self.name}: a {self.beginning} network and parent {self.parent}")

    @property
    def key(self) -> str:
        """A name for its folder: readable, and different for whatever differs."""
        digest = hashlib.blake2b(repr(_plain(self)).encode(), digest_size=5).hexdigest()
        name = self.name.replace("/", "-")
        return f"{name}-{self.task}-{self.size}px-{self.steps}x{self.rows}-s{self.seed}-{digest}"

    @property
    def steps(self) -> int:
        """Of its training."""
        return self.training.steps

    @property
    def rows(self) -> int:
        """Samples of one step."""
        return self.training.rows

    @property
    def loop(self) -> LoopConfig:
        """How it is trained. The average forgets within a tenth of a short run."""
        return LoopConfig(
            steps=self.steps,
            learning_rate=self.training.learning_rate,
            warmup_steps=self.training.warmup_steps,
            decay=self.training.decay,
            final_fraction=self.training.final_fraction,
            weight_decay=self.training.weight_decay,
            ema_decay=max(0.5, min(0.9999, 1 - 10 / self._first_steps)),
            save_every=max(1, min(1000, self.steps // 4)),
            log_every=50,
            bf16=self.bf16,
            micro_batches=self.micro_batches,
            recompute=self.recompute,
            sharding="shard" if self.recompute else "replicate",
            seed=self.seed,
        )

    @property
    def _first_steps(self) -> int:
        """Steps of the run's first part, which no prolonging changes."""
        if self.parent is not None and self.beginning == "prolonged":
            return self.parent._first_steps
        return self.steps

    @property
    def samples(self) -> int:
        """Samples of its own training."""
        return self.steps * self.rows

    @property
    def forward_macs(self) -> int:
        """Multiply-adds of one evaluation of one row."""
        return count(self.model, self.size).macs

    @property
    def parameters(self) -> int:
        """Learned parameters, all experts included."""
        return count(self.model, self.size).learned_parameters

    @property
    def own_macs(self) -> int:
        """Multiply-adds of its own training, forward and backward."""
        return BACKWARD * self.forward_macs * self.samples

    @property
    def macs_by_task(self) -> Mapping[Task, int]:
        """Multiply-adds of training along the whole line of parents."""
        spent: dict[Task, int] = {"classes": 0, "depth": 0}
        if self.parent is not None:
            spent.update(self.parent.macs_by_task)
        spent[self.task] += self.own_macs
        if self.beginning == "prolonged":
            spent[self.task] = self.own_macs  # the parent's steps are among its own
        return spent


def lineage(network: Network) -> tuple[Network, ...]:
    """The network's ancestors, oldest first, and itself."""
    before = lineage(network.parent) if network.parent else ()
    return (*before, network)


def _plain(network: Network) -> tuple[object, ...]:
    """All that fixes the network and nothing that may be added to the records it is made of."""
    model = network.model
    shape = (
        model.in_channels,
        model.out_channels,
        model.num_labels,
        model.width,
        model.depth,
        model.heads,
        model.patch,
        tuple(asdict(model.experts).items()) if model.experts else None,
    )
    own = (
        network.name,
        network.task,
        network.size,
        astuple(network.training),
        network.seed,
        network.schedule,
        network.beginning,
        network.bf16,
    )
    return (*own, shape, _plain(network.parent) if network.parent else None)
