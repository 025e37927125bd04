"""Pre-trains a denoiser to draw pictures by class, from latents that `training.latents` cached:

`python -m training.pretrain --run a4 --latents latents --out runs/a4`

Resumes by itself where the run in `--out` stopped. Writes checkpoints, curves, and at the end
`model.safetensors` (the moving average) with `model.json` beside it, from which `finetune` and
`upcycle` start and `class_sampler` draws. `--held-out LATENTS` also measures the loss there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_model
from torch import Tensor
from torch.nn import functional

from service.core.record import ArtifactError
from training.checkpoint import CheckpointError, load_weights
from training.config import ConfigError, described, in_one_sentence, launch, read_described
from training.data.latent_set import LatentSet, LatentStream, open_latents
from training.data.mixture import seeded
from training.data.read_ahead import ReadAhead
from training.diffusion import Diffusion
from training.distributed import is_first_process
from training.loop import StepResult, reduced_precision, train
from training.models.dit import DiT
from training.models.moe import expert_balance
from training.runs.pretrain import PRETRAIN_RUNS, PretrainRun
from training.variational import Posterior, hybrid_loss

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
_HELD_OUT_ROWS = 64


def check_latents(run: PretrainRun, latents: LatentSet) -> None:
    """Raises ConfigError, naming the setting, where the model cannot learn from these latents."""
    model, index = run.model, latents.index
    channels, height, width = index.latent_shape
    if channels != model.in_channels:
        raise ConfigError(f"model.in_channels is {model.in_channels}, the latents have {channels}")
    if height % model.patch or width % model.patch:
        raise ConfigError(f"model.patch {model.patch} does not divide latents {height} x {width}")
    if len(index.classes) >= model.num_labels:
        raise ConfigError(
            f"model.num_labels is {model.num_labels}; {len(index.classes)} classes and the row for "
            f"none of them need {len(index.classes) + 1}"
        )


def check_held_out(latents: LatentSet, held_out: LatentSet) -> None:
    """Raises ConfigError unless both are of one autoencoder, size and order of classes."""
    for name in ("vae", "latent_shape", "classes"):
        if getattr(latents.index, name) != getattr(held_out.index, name):
            raise ConfigError(
                f"--held-out {held_out.folder} differs from {latents.folder} in {name}"
            )


def drop_labels(label: Tensor, run: PretrainRun, generator: torch.Generator) -> Tensor:
    """Labels (B,) of which `label_dropout` become the last row: "none", as guidance needs it."""
    drawn = torch.rand(len(label), generator=generator, device=generator.device)
    return torch.where(drawn < run.label_dropout, run.model.num_labels - 1, label)


def objective(
    run: PretrainRun, model: DiT, latents: LatentSet, device: torch.device
) -> Callable[[int], StepResult]:
    """The loss of micro-batch n, with all its randomness derived from n."""
    diffusion = Diffusion(run.schedule, device)
    posterior = Posterior(run.schedule.build(), device)
    read = ReadAhead(LatentStream(latents, run.rows, run.loop.seed, run.flip).batch)

    def compute(index: int) -> StepResult:
        x_0, label = (part.to(device) for part in read(index))
        generator = seeded(device, "noise", run.loop.seed, index)
        label = drop_labels(label, run, generator)
        t = diffusion.sample_timesteps(run.rows, generator)
        eps = torch.randn(x_0.shape, generator=generator, device=device)
        with reduced_precision(run.loop, device):
            output = model(diffusion.add_noise(x_0, eps, t), None, t, label)
        if run.learn_sigma:
            parts = hybrid_loss(output, diffusion, posterior, x_0, eps, t)
        else:
            parts = {"diffusion": functional.mse_loss(output.float(), eps)}
        if (balance := expert_balance(model)) is not None:
            parts["balance"] = balance
        return StepResult(parts, run.rows, "pretrain")

    return compute


@torch.no_grad()
def held_out_loss(
    run: PretrainRun, model: DiT, latents: LatentSet, device: torch.device, batches: int = 16
) -> float:
    """Mean squared error of the predicted noise on pictures that were not trained on.

    The same pictures, noise and timesteps for every model and run, so that losses compare.
    """
    diffusion = Diffusion(run.schedule, device)
    stream = LatentStream(latents, _HELD_OUT_ROWS, seed=0, flip=False)
    total = 0.0
    for index in range(batches):
        x_0, label = (part.to(device) for part in stream.batch(index))
        generator = seeded(device, "held out", index)
        t = diffusion.sample_timesteps(len(x_0), generator)
        eps = torch.randn(x_0.shape, generator=generator, device=device)
        with reduced_precision(run.loop, device):
            output = model(diffusion.add_noise(x_0, eps, t), None, t, label)
        total += float(functional.mse_loss(output[:, : x_0.shape[1]].float(), eps))
    return total / batches


def pretrain(run: PretrainRun, latents: LatentSet, out: Path, device: torch.device) -> DiT:
    """Trains, or goes on training, in `out`; writes and returns the moving average.

    Raises ConfigError and DataError where run and latents do not fit, and what `train` raises.
    """
    check_latents(run, latents)
    torch.manual_seed(run.loop.seed)
    model = DiT(run.model).to(device)
    ema = train(model, objective(run, model, latents, device), run.loop, out, described(run))
    assert isinstance(ema, DiT)
    if is_first_process():
        _write(run, latents, ema, out)
    return ema.eval()


def _write(run: PretrainRun, latents: LatentSet, ema: DiT, out: Path) -> None:
    save_model(ema, str(out / WEIGHTS))
    index = latents.index
    told = {
        **described(run),
        "latent_shape": index.latent_shape,
        "classes": index.classes,
        "vae": index.vae,
    }
    (out / DESCRIPTION).write_text(json.dumps(told, indent=2) + "\n")


@dataclass(frozen=True)
class Pretrained:
    """What is remembered of a finished run."""

    run: PretrainRun
    latent_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    vae: str  # sha256 of the weights of the autoencoder whose latents were learned


def read_pretrained(folder: Path) -> Pretrained:
    """Reads `model.json` of a run's folder; raises CheckpointError where it is not one."""
    path = folder / DESCRIPTION
    try:
        told = json.loads(path.read_text())
        channels, height, width = told.pop("latent_shape")
        classes, vae = tuple(told.pop("classes")), told.pop("vae")
        run = read_described(PretrainRun, told)
    except (OSError, ValueError, KeyError, TypeError, ArtifactError) as error:
        raise CheckpointError(f"{path} does not describe a pre-trained model: {error}") from error
    return Pretrained(run, (channels, height, width), classes, vae)


def load_pretrained(folder: Path, device: torch.device) -> DiT:
    """The model that `pretrain` left in a folder, ready to draw; raises CheckpointError."""
    model = DiT(read_pretrained(folder).run.model)
    load_weights(model, folder / WEIGHTS)
    return model.to(device).eval()


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring. Ends with one sentence where it cannot go on."""
    parser = argparse.ArgumentParser(prog="training.pretrain", description=__doc__)
    parser.add_argument("--latents", type=Path, required=True, help="cache of training.latents")
    parser.add_argument("--held-out", type=Path, help="cache of pictures to measure the loss on")
    parser.add_argument("--verify", action="store_true", help="check every byte of the cache first")
    told, options = launch(parser, PRETRAIN_RUNS, "tiny", arguments)
    with in_one_sentence(parser):
        latents = open_latents(options.latents, options.verify)
        held_out = open_latents(options.held_out) if options.held_out else None
        if held_out is not None:
            check_held_out(latents, held_out)
        model = pretrain(told.run, latents, told.out, told.device)
    if not is_first_process():
        return
    print(f"wrote {told.out / WEIGHTS}")
    if held_out is not None:
        model = model.to(told.device)  # a sharded run gathers it elsewhere
        print(f"held-out loss {held_out_loss(told.run, model, held_out, told.device):.5f}")


if __name__ == "__main__":
    main()
