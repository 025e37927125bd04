"""The small autoencoder of rendered scales: pictures and their depth, trained once per folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_model
from torch import Tensor
from torch.nn import functional

from training.autoencoder import WEIGHTS
from training.data.mixture import seeded
from training.loop import LoopConfig, StepResult, reduced_precision, train
from training.models.vae import Autoencoder, VaeConfig
from training.scaling.pictures import DepthPictures
from training.targets import prepare, shrink

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class CoderTraining:
    """How it is trained: on so many rendered pictures, at the sizes that studies use."""

    pictures: int
    rows: int
    loop: LoopConfig
    vae: VaeConfig = field(default_factory=VaeConfig)
    latent_noise: float = 0.03  # of the latents' deviation: the decoder must forgive small errors


def train_coder(
    config: CoderTraining, pictures: DepthPictures, sizes: tuple[int, ...], folder: Path
) -> None:
    """Leaves the weights in `folder`, as `training.autoencoder` does; nothing where they are."""
    if (folder / WEIGHTS).is_file():
        return
    shown = _material(config, pictures)
    torch.manual_seed(config.loop.seed)
    model = Autoencoder(config.vae)
    compute = _reconstruction(config, model, shown, sizes)
    ema = train(model, compute, config.loop, folder, {"vae": asdict(config.vae)})
    assert isinstance(ema, Autoencoder)
    with torch.no_grad():
        targets = shown[len(shown) // 2 :][:512]
        latent = torch.cat(
            [ema.encoding.encoder(shrink(targets, size)).flatten(2) for size in sizes], 2
        )
        # Of targets alone: photographs are only ever conditions.
        ema.encoding.latent_mean.copy_(latent.mean(dim=(0, 2)))
        ema.encoding.latent_std.copy_(latent.std(dim=(0, 2)))
    save_model(ema, str(folder / WEIGHTS))


def _material(config: CoderTraining, pictures: DepthPictures) -> Tensor:
    """Photographs, then as many targets: (2 n, 3, S, S) in [-1, 1]."""
    images, targets = [], []
    for chunk in range(-(-config.pictures // pictures.chunk)):
        example = prepare(pictures.training(chunk), pictures.side)
        images.append(example.image)
        targets.append(example.targets[:, 0])
    return torch.cat([*images, *targets])


def _reconstruction(
    config: CoderTraining, model: Autoencoder, shown: Tensor, sizes: tuple[int, ...]
) -> Callable[[int], StepResult]:
    """The loss of step n: MSE + 0.1 L1, on photographs and targets, sizes taking turns."""

    def compute(step: int) -> StepResult:
        generator = seeded(_CPU, "coder", config.loop.seed, step)
        rows = torch.randint(len(shown), (config.rows,), generator=generator)
        picture = shrink(shown[rows], sizes[step % len(sizes)])
        with reduced_precision(config.loop, _CPU):
            latent = model.encoding.encoder(picture)
            noise = torch.randn(latent.shape, generator=generator)
            restored = model.decoder(
                latent + config.latent_noise * latent.detach().std() * noise
            ).float()
        parts = {
            "mse": functional.mse_loss(restored, picture),
            "l1": 0.1 * functional.l1_loss(restored, picture),
            "size": 1e-4 * latent.float().square().mean(),  # keeps the scale from drifting
        }
        return StepResult(parts, config.rows, "coder")

    return compute
