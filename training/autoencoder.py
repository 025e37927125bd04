"""Trains the autoencoder: `python -m training.autoencoder --run small --out runs/autoencoder`.

Photographs, depth, flow, masks and whole objects go through the same network, since the denoiser's
targets of every task must live in one latent space.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from safetensors.torch import save_model
from torch import Tensor
from torch.nn import functional

from training.config import described, in_one_sentence, launch
from training.data.mixture import SOURCES, Stream, seeded
from training.distributed import is_first_process
from training.loop import StepResult, reduced_precision, train
from training.models.vae import Autoencoder, VaeConfig
from training.regridding import shrink
from training.runs.autoencoder import AUTOENCODER_RUNS, AutoencoderRun
from training.targets import Example, prepare

WEIGHTS = "vae.safetensors"


def pictures(example: Example, size: int) -> Tensor:
    """All that the autoencoder must be able to write of an example: (B, N + 1, 3, size, size)."""
    image = shrink(example.image, size)
    return torch.cat([image[:, None], example.targets], dim=1)


def reconstruction(
    run: AutoencoderRun, model: Autoencoder, device: torch.device
) -> Callable[[int], StepResult]:
    """The loss of step n: MSE + 0.1 L1 over one batch of every task."""
    size = run.model.image_size
    streams = {
        task: Stream(task, size, run.rows, run.pool, run.loop.seed, device) for task in SOURCES
    }

    def compute(step: int) -> StepResult:
        shown = torch.cat(
            [
                pictures(prepare(stream.batch(step), size), size).flatten(0, 1)
                for stream in streams.values()
            ]
        )
        generator = seeded(device, "latent noise", run.loop.seed, step)
        with reduced_precision(run.loop, device):
            latent = model.encoding.encoder(shown)
            noise = torch.randn(latent.shape, generator=generator, device=device)
            scale = run.latent_noise * latent.detach().float().std()
            restored = model.decoder(latent + scale * noise).float()
        parts = {
            "mse": functional.mse_loss(restored, shown),
            "l1": 0.1 * functional.l1_loss(restored, shown),
            # Keeps the latents' scale from drifting; far too weak to cost quality.
            "size": 1e-4 * latent.float().square().mean(),
        }
        return StepResult(parts, len(shown), "autoencoder")

    return compute


@torch.no_grad()
def measure_latents(run: AutoencoderRun, model: Autoencoder, device: torch.device) -> None:
    """Sets the mean and deviation that make the latents of targets standard.

    Measured over targets alone: photographs are only ever conditions.
    """
    size = run.model.image_size
    latents = []
    for task in SOURCES:
        stream = Stream(task, size, run.rows, run.pool, run.loop.seed + 1, device)
        for step in range(4):
            example = prepare(stream.batch(step), size)
            latents.append(model.encoding.encoder(example.targets.flatten(0, 1)))
    joined = torch.cat(latents)
    model.encoding.latent_mean.copy_(joined.mean(dim=(0, 2, 3)))
    model.encoding.latent_std.copy_(joined.std(dim=(0, 2, 3)))


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring. Ends with one sentence where it cannot go on."""
    parser = argparse.ArgumentParser(prog="training.autoencoder", description=__doc__)
    told, _ = launch(parser, AUTOENCODER_RUNS, "small", arguments)
    run, out, device = told.run, told.out, told.device
    assert isinstance(run.model.vae, VaeConfig)
    torch.manual_seed(run.loop.seed)
    model = Autoencoder(run.model.vae).to(device)
    with in_one_sentence(parser):
        ema = train(model, reconstruction(run, model, device), run.loop, out, described(run))
    assert isinstance(ema, Autoencoder)
    measure_latents(run, ema, device)
    if is_first_process():
        save_model(ema, str(out / WEIGHTS))
        print(f"wrote {out / WEIGHTS}")


if __name__ == "__main__":
    main()
