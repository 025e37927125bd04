"""Named runs, each a function that returns its whole configuration, and overrides of them."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Generic, TypeVar, cast

import torch

from service.core.record import ArtifactError, dump_record, load_record
from training.data.mixture import PoolConfig
from training.loop import LoopConfig
from training.losses import LossConfig
from training.models.perception import MODELS, ModelConfig

Run = TypeVar("Run", "AutoencoderRun", "FinetuneRun")


class ConfigError(Exception):
    """An override that names no setting or does not parse; the message says which."""


@dataclass(frozen=True)
class AutoencoderRun:
    """Training of the autoencoder on pictures of every task."""

    model: ModelConfig
    loop: LoopConfig
    rows: int = 32  # pictures of each kind are cut from this many scenes of each task
    latent_noise: float = 0.03  # of the latents' deviation: the decoder must forgive small errors
    pool: PoolConfig = field(default_factory=PoolConfig)


@dataclass(frozen=True)
class FinetuneRun:
    """Training of the generalist: tasks take turns, `shares` says how often."""

    model: ModelConfig
    loop: LoopConfig
    shares: Mapping[str, int]  # turns of each task in one round
    rows: Mapping[str, int]  # batch size of each task
    loss: LossConfig = field(default_factory=LossConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)


def autoencoder_small() -> AutoencoderRun:
    """The autoencoder of the shipped model: a few minutes on two CPU cores."""
    return AutoencoderRun(
        model=MODELS["decoupled"],
        loop=LoopConfig(steps=600, learning_rate=2e-3, warmup_steps=50, ema_decay=0.995),
        rows=8,
        pool=PoolConfig(chunk=16, chunks=5, views=4, compiled=True),
    )


def autoencoder_tiny() -> AutoencoderRun:
    """A few steps of a very small autoencoder: shows that everything runs."""
    return AutoencoderRun(
        model=MODELS["tiny"],
        loop=LoopConfig(steps=20, warmup_steps=5, save_every=10, log_every=5, ema_decay=0.9),
        rows=4,
        pool=PoolConfig(chunk=4, chunks=2),
    )


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


AUTOENCODER_RUNS: Mapping[str, Callable[[], AutoencoderRun]] = MappingProxyType(
    {"small": autoencoder_small, "tiny": autoencoder_tiny}
)
FINETUNE_RUNS: Mapping[str, Callable[[], FinetuneRun]] = MappingProxyType(
    {
        "shipped": partial(generalist, "decoupled", 14_500),
        "decoupled": partial(generalist, "decoupled", 1_000),
        "concatenated": partial(generalist, "concatenated", 1_000),
        "tiny": partial(finetune_tiny, "tiny"),
        "tiny-concatenated": partial(finetune_tiny, "tiny-concatenated"),
    }
)


@dataclass(frozen=True)
class Launch(Generic[Run]):
    """What every training command is told, beside what is its own."""

    run: Run
    out: Path
    device: torch.device


def launch(
    parser: ArgumentParser,
    runs: Mapping[str, Callable[[], Run]],
    default: str,
    arguments: Sequence[str] | None,
) -> tuple[Launch[Run], Namespace]:
    """Reads a training command line; one with a wrong setting ends with an error that names it."""
    parser.add_argument("--run", choices=sorted(runs), default=default)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the run; resumed if begun"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args(arguments)
    try:
        run = override(runs[options.run](), options.set)
    except ConfigError as error:
        parser.error(str(error))
    return Launch(run, options.out, torch.device(options.device)), options


def override(config: Run, settings: Sequence[str]) -> Run:
    """`config` with settings such as `loop.steps=200`, values in JSON. Raises ConfigError."""
    plain = described(config)
    for setting in settings:
        path, separator, text = setting.partition("=")
        if not separator:
            raise ConfigError(f"--set {setting}: expected name=value, such as loop.steps=200")
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"--set {path}: {text!r} is not JSON ({error.msg})") from error
        _replace(plain, path, value)
    try:
        return load_record(type(config), json.dumps(plain))
    except ArtifactError as error:
        raise ConfigError(f"--set {error}") from error


def described(config: AutoencoderRun | FinetuneRun) -> dict[str, object]:
    """The configuration as plain JSON values, for checkpoints and model cards."""
    return dict(json.loads(dump_record(config)))


def read_model(plain: Mapping[str, object]) -> ModelConfig:
    """The model configuration that `described` wrote; raises ArtifactError."""
    return load_record(ModelConfig, json.dumps(plain))


def _replace(plain: dict[str, object], path: str, value: object) -> None:
    """Sets what `path` names, which must be there already."""
    parent, here = plain, cast(object, plain)
    for key in path.split("."):
        if not isinstance(here, dict):
            raise ConfigError(
                f"--set {path}: {key!r} is not a setting, what precedes it is a value"
            )
        if key not in here:
            raise ConfigError(f"--set {path}: {key!r} is not one of {', '.join(sorted(here))}")
        parent, here = here, here[key]
    parent[key] = value
