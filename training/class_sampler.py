"""Draws pictures by class from a pre-trained denoiser, to look at what it learned:

`python -m training.class_sampler runs/a4 --vae sd-vae --classes 207 360 --out samples.png`

DDIM with the service's own coefficients, and classifier-free guidance (Ho and Salimans, arXiv
2207.12598) on all channels. Every row of the picture is a class.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from service.core.artifact import MAX_STEPS, ScheduleSpec
from training.checkpoint import CheckpointError
from training.config import add_device
from training.data.mixture import seeded
from training.ddim import denoise
from training.models.autoencoders import load_autoencoder, weights_sha256
from training.models.dit import DiT
from training.pretrain import load_pretrained, read_pretrained

_GAP = 2  # px between the pictures of a grid


@dataclass(frozen=True)
class ClassSampler:
    """Draws latents; the noise of row n depends on `seed` and n alone."""

    model: DiT
    schedule: ScheduleSpec
    device: torch.device
    seed: int = 1

    @torch.no_grad()
    def latents(
        self, labels: Tensor, shape: tuple[int, int, int], steps: int, guidance: float
    ) -> Tensor:
        """Latents (B, C, h, w) of classes `labels` (B,), where `shape` is (C, h, w).

        `guidance` 1 asks the class alone, 0 none, and more than 1 moves further from none than the
        class does.
        """
        spec, labels = self.schedule, labels.to(self.device)
        rows = [
            torch.randn(shape, generator=seeded(self.device, self.seed, row), device=self.device)
            for row in range(len(labels))
        ]

        def predict(x_t: Tensor, timestep: Tensor) -> Tensor:
            return self._guided(x_t, timestep, labels, guidance)

        visited = spec.step_pairs(steps)
        return denoise(torch.stack(rows), spec.build(), spec.prediction_type, visited, predict)

    def _guided(self, x: Tensor, timestep: Tensor, labels: Tensor, guidance: float) -> Tensor:
        """The noise that the model sees in `x`; its variance, where it has one, is left out."""
        none = torch.full_like(labels, self.model.config.num_labels - 1)
        asked = torch.cat([labels, none]) if guidance != 1 else labels
        times = len(asked) // len(labels)
        doubled, timesteps = x.repeat(times, 1, 1, 1), timestep.repeat(times)
        predicted = self.model(doubled, None, timesteps, asked)[:, : x.shape[1]].float()
        if guidance == 1:
            return predicted
        with_class, without = predicted.chunk(2)
        return without + guidance * (with_class - without)


def grid(pictures: Tensor, columns: int) -> NDArray[np.uint8]:
    """Pictures (B, 3, S, S) in [-1, 1], row by row, as one picture of uint8 (H, W, 3)."""
    pixels = ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    side = pixels.shape[1] + _GAP
    rows = -(-len(pixels) // columns)
    sheet = np.full((rows * side - _GAP, columns * side - _GAP, 3), 255, np.uint8)
    for number, picture in enumerate(pixels):
        top, left = (number // columns) * side, (number % columns) * side
        sheet[top : top + side - _GAP, left : left + side - _GAP] = picture
    return sheet


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring. Ends with one sentence where it cannot go on."""
    parser = argparse.ArgumentParser(prog="training.class_sampler", description=__doc__)
    parser.add_argument("run", type=Path, help="folder that training.pretrain wrote")
    parser.add_argument("--vae", type=Path, required=True, help="the autoencoder of its latents")
    parser.add_argument(
        "--classes", type=int, nargs="+", help="labels; the first eight if not told"
    )
    parser.add_argument("--each", type=int, default=8, help="pictures of every class")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=4.0, help="1 is none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="picture file of the grid")
    add_device(parser)
    told = parser.parse_args(arguments)
    device = torch.device(told.device)
    if not 1 <= told.steps <= MAX_STEPS or told.each < 1:
        parser.error(f"--steps must be in 1..{MAX_STEPS} and --each at least 1")
    try:
        found = read_pretrained(told.run)
        model = load_pretrained(told.run, device)
        vae = load_autoencoder(told.vae, device)
    except CheckpointError as error:
        parser.error(str(error))
    if weights_sha256(told.vae) != found.vae:
        parser.error(f"--vae {told.vae} is not the autoencoder whose latents {told.run} learned")
    classes = list(range(min(8, len(found.classes)))) if told.classes is None else told.classes
    for label in classes:
        if not 0 <= label < len(found.classes):
            parser.error(f"--classes {label} is not in 0..{len(found.classes) - 1}")
    sampler = ClassSampler(model, found.run.schedule, device, told.seed)
    rows = []
    for label in classes:
        labels = torch.full((told.each,), label)
        latents = sampler.latents(labels, found.latent_shape, told.steps, told.guidance)
        with torch.no_grad():
            rows.append(vae.decode(latents))
    told.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid(torch.cat(rows), told.each)).save(told.out)
    print(f"wrote {told.out}, from the top: {', '.join(found.classes[label] for label in classes)}")


if __name__ == "__main__":
    main()
