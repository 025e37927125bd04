"""What the released generalist answers, without a line of ours between picture and answer.

diffusers encodes, steps and decodes; the network is the published sources' forward pass over all
experts; Pillow resizes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from service.engine.sampling import draw_noise
from tests.parity.oracle import SEED, ensemble_in_float64
from tests.support.foreign_dit import forward
from tests.support.public_checkpoints import CHANNELS, FACTOR
from tests.support.public_generalist import SHAPE, Release

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # diffusers' imports warn of its own dependencies
    from diffusers import AutoencoderKL, DDIMScheduler

SIDE = SHAPE.latent * FACTOR  # px
SCALE = 0.18215
LABELS: Mapping[str, tuple[int, ...]] = {"depth": (1000,), "amodal": (1001,), "flow": (1002, 1003)}
UNIT_PX, FRAME = 75, (512, 384)
WHITE = 1 - 0.04  # in -1..1: grey 250 of 255
_ROUNDING = 3e-4  # of painted values: nearer to the edge of white, it decides


@dataclass(frozen=True)
class Expected:
    """An answer at the size of the upload; of amodal, `sure` is where no rounding decides."""

    prediction: np.ndarray
    uncertainty: np.ndarray
    appearance: np.ndarray | None = None
    sure: np.ndarray | None = None


class Oracle:
    """One release, loaded by diffusers."""

    def __init__(self, release: Release) -> None:
        self.weights = release.weights
        self.vae: Any = AutoencoderKL.from_pretrained(release.stable_diffusion / "vae")
        self.scheduler: Any = DDIMScheduler.from_pretrained(release.stable_diffusion / "scheduler")

    def depth(self, image: Image.Image, steps: int, members: int) -> Expected:
        """0 nearest, 1 farthest."""
        everywhere = torch.ones(1, 3, SIDE, SIDE)
        (decoded,) = self._decoded("depth", pixels(image), everywhere, steps, members)
        depth = ((decoded.mean(dim=1, keepdim=True) + 1) / 2).clamp(0, 1)
        spread = torch.zeros_like(depth[:1])
        if members > 1:
            depth, spread = ensemble_in_float64(
                depth.double(), scale_invariant=True, shift_invariant=True, output_uncertainty=True
            )
        whole, around = (resized(plane[0, 0], image.size) for plane in (depth, spread))
        low, high = whole.min(), whole.max()
        assert high - low > 0.05  # else the stretch would compare rounding
        return Expected((whole - low) / (high - low), around / (high - low))

    def flow(self, first: Image.Image, second: Image.Image, steps: int, members: int) -> Expected:
        """Pixels of the upload, (h, w, 2)."""
        decoded = self._decoded("flow", pixels(first), pixels(second), steps, members)
        found = []
        for component, size, frame in zip(decoded, first.size, FRAME, strict=True):
            px = _mean(component.mean(dim=1) * UNIT_PX * size / frame)
            found.append([resized(plane, first.size) for plane in px])
        prediction, spread = (np.stack(planes, axis=-1) for planes in zip(*found, strict=True))
        return Expected(prediction, spread)

    def amodal(
        self,
        image: Image.Image,
        mask: Image.Image,
        steps: int,
        members: int,
        reduction: str = "median",
    ) -> Expected:
        """Coverage at the size of the upload, and the painted object at the network's.

        Of masks that are 0 or 1 the median absolute deviation is 0, the mean's is not.
        """
        visible = np.asarray(mask) > 127
        (painted,) = self._decoded("amodal", pixels(image), pixels(mask), steps, members)
        darkest = painted.amin(dim=1)
        brightest = painted.amax(dim=1)
        unlike_white = (darkest < WHITE) | (brightest > 2 - WHITE)
        edge = torch.minimum((darkest - WHITE).abs(), (brightest - 2 + WHITE).abs()) < _ROUNDING
        reduce = {"median": _median, "mean": _mean}[reduction]
        coverage, spread = reduce(unlike_white.float())
        unsure = resized(edge.any(dim=0).float(), image.size) > 0
        return Expected(
            np.maximum(resized(coverage, image.size), visible),
            np.where(visible, 0, resized(spread, image.size)),
            reduce(((painted + 1) / 2).clamp(0, 1))[0].numpy(),
            ~unsure,
        )

    @torch.no_grad()
    def _decoded(
        self, task: str, image: Tensor, prompt: Tensor, steps: int, members: int
    ) -> list[Tensor]:
        """The decoder's pictures (members, 3, SIDE, SIDE) of every component."""
        image, prompt = (
            self.vae.encode(picture).latent_dist.mode() * SCALE for picture in (image, prompt)
        )
        return [
            torch.cat(
                [
                    self.vae.decode(
                        self._sampled(image, prompt, label, noise, steps) / SCALE
                    ).sample
                    for noise in initial_latents(members, component)
                ]
            )
            for component, label in enumerate(LABELS[task])
        ]

    def _sampled(
        self, image: Tensor, prompt: Tensor, label: int, latent: Tensor, steps: int
    ) -> Tensor:
        self.scheduler.set_timesteps(steps)
        for t in self.scheduler.timesteps:
            entered = torch.cat([image, prompt, latent], dim=1)
            predicted = forward(self.weights, SHAPE, entered, t[None], torch.tensor([label]))
            latent = self.scheduler.step(predicted[:, :CHANNELS], t, latent, eta=0.0).prev_sample
        return latent


def _mean(members: Tensor) -> tuple[Tensor, Tensor]:
    """Of (N, ...), and the standard deviation."""
    alone = len(members) == 1
    return members.mean(dim=0), torch.zeros_like(members[0]) if alone else members.std(dim=0)


def _median(members: Tensor) -> tuple[Tensor, Tensor]:
    """Of (N, ...), and the median absolute deviation."""
    middle = members.median(dim=0).values
    return middle, (members - middle).abs().median(dim=0).values


def initial_latents(members: int, component: int) -> list[Tensor]:
    """The noise that the service starts from for SEED."""
    shape = (CHANNELS, SHAPE.latent, SHAPE.latent)
    drawn = [draw_noise(SEED, member, component, shape) for member in range(members)]
    return [torch.from_numpy(noise)[None] for noise in drawn]


def pixels(picture: Image.Image) -> Tensor:
    """(1, 3, SIDE, SIDE) in [-1, 1]."""
    small = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR).convert("RGB"))
    return torch.from_numpy(small.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]


def resized(plane: Tensor, size: tuple[int, int]) -> np.ndarray:
    """One map at the size (width, height) of the upload."""
    image = Image.fromarray(plane.float().numpy())
    return np.asarray(
        image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)
    )
