"""Runs of `training.finetune`: each a function that returns its whole configuration.

Where the numbers of the paper's runs come from ("Scaling Properties of Diffusion Models for
Perceptual Tasks", arXiv 2411.08034): sizes, sets, resolutions, the noise as target and the learning
rate, exponentially from 1.2e-4 to 1.2e-6, are its own, as public notes on it quote them. Its batch
and number of steps are not stated in what could be read: 32 pictures and 30 thousand steps are
those of Marigold, whose recipe it follows, with a short warm-up and no decay of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from service.core.record import require
from service.core.tasks import TaskName
from training.data.augment import AugmentConfig
from training.data.mixture import PoolConfig
from training.data.set_info import SetInfo
from training.data.sets import SETS
from training.data.shares import PROCEDURAL, SourceShare
from training.data.stream import LoaderConfig
from training.loop import LoopConfig
from training.losses import LossConfig
from training.models.perception import MODELS, ModelConfig, paper_form
from training.runs.fit import Fit
from training.targets import COMPONENTS


def _procedural() -> Mapping[str, tuple[SourceShare, ...]]:
    return {task: (SourceShare(PROCEDURAL, 1.0),) for task in COMPONENTS}


@dataclass(frozen=True)
class FinetuneRun:
    """Training of the generalist: tasks take turns, `shares` says how often.

    `sources` says what a task's batches are drawn from: what is rendered while training, public
    data sets, or both. Raises ArtifactError for settings that do not fit each other.
    """

    model: ModelConfig
    loop: LoopConfig
    shares: Mapping[str, int]  # turns of each task in one round
    rows: Mapping[str, int]  # batch size of each task, in every micro-batch
    loss: LossConfig = field(default_factory=LossConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    sources: Mapping[str, tuple[SourceShare, ...]] = field(default_factory=_procedural)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    def __post_init__(self) -> None:
        require(len(self.shares) > 0, "shares", "must name a task")
        for task, share in self.shares.items():
            done = task in self.model.tasks
            require(done, f"shares.{task}", f"must be one of {', '.join(self.model.tasks)}")
            require(share >= 1, f"shares.{task}", "must be at least 1")
            require(task in self.rows, f"rows.{task}", "is missing")
            require(self.rows[task] >= 1, f"rows.{task}", "must be at least 1")
            require(bool(self.sources.get(task)), f"sources.{task}", "must name a source")
            rendered = any(source.name == PROCEDURAL for source in self.sources[task])
            fits = self.rows[task] <= self.pool.pictures or not rendered
            require(fits, f"rows.{task}", f"must be at most the pool's {self.pool.pictures}")
        for task, sources in self.sources.items():
            for index, source in enumerate(sources):
                _check_source(task, source, f"sources.{task}[{index}]")

    @property
    def data(self) -> tuple[str, ...]:
        """The names of all sources that the run draws from."""
        return tuple(dict.fromkeys(s.name for task in self.shares for s in self.sources[task]))


def _check_source(task: str, source: SourceShare, path: str) -> None:
    known: dict[str, SetInfo] = {n: info for n, info in SETS.items() if info.task == task}
    names = ", ".join([PROCEDURAL, *known])
    require(source.name in (PROCEDURAL, *known), f"{path}.name", f"must be one of {names}")
    require(source.share > 0, f"{path}.share", "must be positive")


def generalist(model: str, steps: int) -> FinetuneRun:
    """Depth, flow and amodal completion in one network; what learns slower has more turns."""
    return FinetuneRun(
        model=MODELS[model],
        loop=LoopConfig(steps=steps),
        loss=LossConfig(draws=1),
        shares={"depth": 3, "flow": 2, "amodal": 1},
        rows={"depth": 32, "flow": 16, "amodal": 24},
        pool=PoolConfig(compiled=True),
    )


def finetune_tiny(model: str) -> FinetuneRun:
    """A few steps of a very small generalist: shows that everything runs."""
    return FinetuneRun(
        model=MODELS[model],
        loop=LoopConfig(steps=12, warmup_steps=4, save_every=4, log_every=2, ema_decay=0.9),
        shares={"depth": 1, "flow": 1, "amodal": 1},
        rows={"depth": 4, "flow": 4, "amodal": 4},
        pool=PoolConfig(chunk=4, chunks=2),
    )


_FITS: Mapping[str, Fit] = MappingProxyType(
    {
        "a5": Fit(4, recompute=True),
        "a6": Fit(8, recompute=True),
        "DiT-XL/2": Fit(4, recompute=True),
        "MoE-XL/2-8E2A-upcycled": Fit(8, recompute=True, sharding="shard"),
    }
)
_SETS: Mapping[TaskName, str] = MappingProxyType(
    {"depth": "hypersim", "flow": "flying_chairs", "amodal": "pix2gestalt"}
)
_PAPER_SIZES: Mapping[str, str] = MappingProxyType(
    {**{f"a{size}": f"a{size}" for size in range(1, 7)}, "XL": "DiT-XL/2"}
)
_PAPER_BATCH = 32


def paper(preset: str, image_size: int, tasks: tuple[TaskName, ...]) -> FinetuneRun:
    """A published network on the paper's sets, at `image_size` px; several tasks in equal parts.

    A step sees 32 pictures of every task. Start it from a pre-trained network by `--init`.
    """
    fit = _FITS.get(preset, Fit(2))
    return FinetuneRun(
        model=paper_form(preset, image_size, tasks),
        loop=LoopConfig(
            steps=30_000,
            learning_rate=1.2e-4,
            decay="exponential",
            final_fraction=0.01,
            warmup_steps=100,
            weight_decay=0.0,
            ema_decay=0.9999,
            micro_batches=fit.micro_batches * len(tasks),
            recompute=fit.recompute,
            sharding=fit.sharding,
            save_every=1_000,
            log_every=50,
        ),
        loss=LossConfig(draws=1),
        shares=dict.fromkeys(tasks, 1),
        rows=dict.fromkeys(tasks, _PAPER_BATCH // fit.micro_batches),
        sources={task: (SourceShare(_SETS[task], 1.0),) for task in tasks},
    )


def _paper_runs() -> dict[str, Callable[[], FinetuneRun]]:
    single = {
        f"{task}-{name}{suffix}": partial(paper, preset, image_size, (task,))
        for task in _SETS
        for name, preset in _PAPER_SIZES.items()
        for image_size, suffix in ((256, ""), (512, "-512"))
    }
    every = tuple(_SETS)
    return {
        **single,
        "generalist-XL": partial(paper, "DiT-XL/2", 512, every),
        "generalist-XL-8E2A": partial(paper, "MoE-XL/2-8E2A-upcycled", 512, every),
    }


FINETUNE_RUNS: Mapping[str, Callable[[], FinetuneRun]] = MappingProxyType(
    {
        "shipped": partial(generalist, "decoupled", 14_500),
        "decoupled": partial(generalist, "decoupled", 1_000),
        "concatenated": partial(generalist, "concatenated", 1_000),
        "tiny": partial(finetune_tiny, "tiny"),
        "tiny-concatenated": partial(finetune_tiny, "tiny-concatenated"),
        **_paper_runs(),
    }
)
