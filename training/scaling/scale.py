"""What a scale is, and the networks that it makes of a size and a few choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from training.models.dit import DiTConfig
from training.models.moe import ExpertsConfig
from training.scaling.coder import CoderTraining
from training.scaling.networks import Network, Training
from training.targets import Targets


@dataclass(frozen=True)
class Upcycling:
    """Dense sizes that are upcycled, into which experts, and for how long both train further."""

    names: tuple[str, ...]
    experts: tuple[ExpertsConfig, ...]
    stage: Training


@dataclass(frozen=True)
class Fit:
    """How a step of a large network is cut so that a GPU bears it; only random draws change."""

    micro_batches: int = 1
    recompute: bool = False  # and spread the weights, where there are several GPUs


@dataclass(frozen=True)
class Scale:
    """Sizes, budgets and data of all studies.

    `ladder` holds the networks as they are pre-trained on classes, smallest first, and `seeds` how
    often each is fine-tuned; `base` is the one of the studies that need only one.
    """

    name: str
    ladder: Mapping[str, DiTConfig]
    seeds: Mapping[str, tuple[int, ...]]
    base: str
    size: int  # px
    sizes: tuple[int, ...]  # of the study of resolution
    side: int  # px of the pictures that all sizes are made from, and of the scored depth
    pictures: int
    chunk: int  # pictures made at a time
    scenes: int  # held out
    class_pictures: int
    coder: CoderTraining | None  # None where a public autoencoder is given
    finetuning: Training
    pretraining: Training  # its steps are the longest of `pretraining_steps`
    pretraining_steps: tuple[int, ...]
    pretrained_ladder: int  # steps of pre-training before the ladder is fine-tuned; 0 is none
    upcycling: Upcycling
    steps: tuple[int, ...]  # of denoising
    standard_steps: tuple[int, ...]  # lines of the studies that do not vary them
    members: tuple[int, ...]
    member_steps: tuple[int, ...]
    ensemble_names: tuple[str, ...]
    schedule_base: str
    schedule_names: tuple[str, ...]
    schedule_steps: tuple[int, ...]
    pretraining_schedules: tuple[str, ...] = ("v cosine",)  # of the fine-tuning that follows
    default_schedule: str = "v cosine"
    targets: Targets = "percept"  # what depth is encoded as
    bf16: bool = True
    fits: Mapping[str, Fit] = field(default_factory=dict)  # by size

    def pretrained(self, name: str, steps: int, seed: int = 1) -> Network:
        """A class-conditional network after so many steps of one long run."""
        shorter = [s for s in self.pretraining_steps if s < steps]
        return Network(
            name=name,
            model=self.ladder[name],
            task="classes",
            size=self.size,
            training=replace(self.pretraining, steps=steps),
            seed=seed,
            schedule="epsilon linear",  # as DiT
            beginning="prolonged" if shorter else "fresh",
            parent=self.pretrained(name, max(shorter), seed) if shorter else None,
            micro_batches=self._fit(name).micro_batches,
            recompute=self._fit(name).recompute,
            bf16=self.bf16,
        )

    def _fit(self, name: str) -> Fit:
        return self.fits.get(name, Fit())

    def finetuned(
        self,
        name: str,
        seed: int = 1,
        size: int | None = None,
        schedule: str | None = None,
        pretraining: int | None = None,
    ) -> Network:
        """A depth network, with the scale's own settings where none are given."""
        before = self.pretrained_ladder if pretraining is None else pretraining
        return Network(
            name=name,
            model=depth_form(self.ladder[name]),
            task="depth",
            size=size or self.size,
            training=self.finetuning,
            seed=seed,
            schedule=schedule or self.default_schedule,
            beginning="extended" if before else "fresh",
            parent=self.pretrained(name, before) if before else None,
            micro_batches=self._fit(name).micro_batches,
            recompute=self._fit(name).recompute,
            bf16=self.bf16,
        )

    def trained_further(self, name: str, experts: ExpertsConfig | None) -> Network:
        """The fine-tuned network after more steps, as it is or upcycled into experts."""
        dense = self.finetuned(name)
        upcycled = "" if experts is None else f"-{experts.num}E{experts.active}A"
        return replace(
            dense,
            name=f"{name}{upcycled}",
            model=replace(dense.model, experts=experts),
            training=self.upcycling.stage,
            beginning="further" if experts is None else "upcycled",
            parent=dense,
        )


def depth_form(model: DiTConfig) -> DiTConfig:
    """The paper's single-task form of a class-conditional network: [noisy latent, rgb latent] in.

    Depth has one label, before that of no class, and the variance is not said any more.
    """
    return replace(
        model,
        in_channels=2 * model.in_channels,
        out_channels=model.in_channels,
        num_labels=model.num_labels + 1,
        first_task_label=model.num_labels - 1,
    )
