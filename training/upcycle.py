"""Turns a finished dense run into a mixture of experts and trains it on:

`python -m training.upcycle --run generalist-XL-8E2A --dense runs/generalist --out runs/mixture
--data hypersim=/data/hypersim`

`--dense` is a run of `training.finetune`, or of `training.pretrain` or a published DiT, which need
`--vae` too. Every expert starts as a copy of the dense MLP; how far that start is from the dense
network's answers is printed, and kept in `upcycled.json`, with the gates as they will be trained
and with renormalised ones, where nothing but rounding may differ. Resumes by itself, and leaves
what `training.finetune` leaves.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from training.config import ConfigError, described, in_one_sentence, launch
from training.data.mixture import seeded
from training.data.shares import read_roots
from training.data.stream import reading
from training.distributed import is_first_process
from training.finetune import objective, open_streams
from training.finetuned import WEIGHTS, write_model
from training.loop import train
from training.models.moe import ExpertsConfig, MoE
from training.models.perception import PerceptionModel
from training.models.transplant import TransplantError, upcycle
from training.runs.finetune import FinetuneRun
from training.runs.upcycle import UPCYCLE_RUNS
from training.starts import begin

START = "upcycled.json"
_ROWS = 8


@dataclass(frozen=True)
class Start:
    """How far an upcycled denoiser's first answers are from the dense one's.

    Norms of the difference relative to the dense answer's, on noise at timesteps from all over the
    schedule: with gates `as_trained`, and `renormalised` so that shares add up to one. `share` is
    what the picked experts' shares add up to as trained, on average.
    """

    as_trained: float
    renormalised: float
    share: float


def upcycled(dense: PerceptionModel, experts: ExpertsConfig, seed: int) -> PerceptionModel:
    """A copy of a dense model whose denoiser has `experts` that start as copies of its MLPs.

    Raises TransplantError for experts of another form, and for a model that has some.
    """
    if dense.config.experts is not None:
        raise TransplantError("the model to upcycle has experts already")
    device = next(dense.parameters()).device
    model = PerceptionModel(replace(dense.config, experts=experts)).to(device)
    state = upcycle(dense.denoiser.state_dict(), experts, seed)
    model.denoiser.load_state_dict(state, strict=True)
    for name in ("vae", "encoders"):
        model.get_submodule(name).load_state_dict(dense.get_submodule(name).state_dict())
    return model


@torch.no_grad()
def measure_start(dense: PerceptionModel, mixture: PerceptionModel, seed: int) -> Start:
    """Compares the two denoisers on random latents, labels of all tasks and timesteps."""
    config = dense.config
    device = next(dense.parameters()).device
    generator = seeded(device, "upcycled", seed)
    size, channels = config.latent_size, config.vae.latent_channels
    noise = torch.randn(
        (_ROWS, channels + config.condition_channels, size, size),
        generator=generator,
        device=device,
    )
    labels = [c.label for task in config.tasks for c in config.components(task)]
    label = torch.tensor(labels, device=device).repeat(_ROWS)[:_ROWS]
    last = config.schedule.num_timesteps - 1
    timestep = torch.linspace(last, 0, _ROWS, device=device).round()
    inputs = noise[:, :channels], noise[:, channels:], timestep, label
    expected = dense.denoiser(*inputs)
    shares: list[float] = []

    def relative() -> float:
        difference = mixture.denoiser(*inputs) - expected
        return float(difference.norm() / expected.norm().clamp(min=1e-12))

    with _watched(mixture.denoiser, shares):
        as_trained = relative()
    with _renormalised(mixture.denoiser):
        renormalised = relative()
    return Start(as_trained, renormalised, sum(shares) / len(shares))


def _layers(module: nn.Module) -> list[MoE]:
    return [layer for layer in module.modules() if isinstance(layer, MoE)]


@contextmanager
def _watched(module: nn.Module, shares: list[float]) -> Iterator[None]:
    """Adds every layer's mean sum of shares to `shares` as it is passed."""

    def look(layer: nn.Module, entered: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(layer, MoE)
        shares.append(float(layer.route(entered[0].flatten(0, 1))[1].sum(dim=1).mean()))

    hooks = [layer.register_forward_pre_hook(look) for layer in _layers(module)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _renormalised(module: nn.Module) -> Iterator[None]:
    """The module with renormalised gates."""
    layers = _layers(module)
    before = [layer.config for layer in layers]
    for layer in layers:
        layer.config = replace(layer.config, renormalise=True)
    try:
        yield
    finally:
        for layer, config in zip(layers, before, strict=True):
            layer.config = config


def start(
    run: FinetuneRun,
    vae: Path | None,
    dense: Path,
    device: torch.device,
    heads: int | None = None,
) -> tuple[FinetuneRun, PerceptionModel, Start]:
    """The run around the dense one's autoencoder, its model as training starts, and how far off.

    Raises ConfigError for a run without experts, and what `training.starts.begin` raises.
    """
    experts = run.model.experts
    if experts is None:
        raise ConfigError("model.experts: must not be null, this is what the run is for")
    dense_run = replace(run, model=replace(run.model, experts=None))
    begun, model = begin(dense_run, vae, dense, device, heads)
    mixture = upcycled(model, experts, run.loop.seed)
    found = measure_start(model.eval(), mixture.eval(), run.loop.seed)
    return replace(begun, model=mixture.config), mixture.train(), found


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring. Ends with one sentence where it cannot go on."""
    parser = argparse.ArgumentParser(prog="training.upcycle", description=__doc__)
    parser.add_argument(
        "--dense", type=Path, required=True, help="a finished dense run, or a published DiT"
    )
    parser.add_argument("--vae", type=Path, help="folder of an autoencoder, for a pre-trained one")
    parser.add_argument(
        "--heads", type=int, help="of a published DiT of no published size, whose file has none"
    )
    parser.add_argument(
        "--data", action="append", default=[], metavar="NAME=FOLDER", help="where a data set lies"
    )
    told, options = launch(parser, UPCYCLE_RUNS, "tiny", arguments)
    out, device = told.out, told.device
    with in_one_sentence(parser):
        run, model, found = start(told.run, options.vae, options.dense, device, options.heads)
        if is_first_process():
            tell(found, out)
        with reading(run.loader) as workers:
            streams = open_streams(run, device, read_roots(options.data), workers)
            ema = train(
                model, objective(run, model, device, streams), run.loop, out, described(run)
            )
    if is_first_process():
        write_model(out, ema, described(run))
        print(f"wrote {out / WEIGHTS}")


def tell(found: Start, out: Path) -> None:
    """Prints the start and writes it into the run's folder."""
    print(
        f"starts {found.as_trained:.1%} from the dense network, whose MLPs count for "
        f"{found.share:.2f}; {found.renormalised:.1e} with renormalised gates"
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / START).write_text(json.dumps(asdict(found), indent=2) + "\n")


if __name__ == "__main__":
    main()
