"""How a training command is told its run: the named configuration, and overrides of its settings.

The runs themselves are in `training.runs`.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

import torch

from service.core.record import ArtifactError, dump_record, load_record
from training.loop import LoopConfig
from training.models.perception import ModelConfig


class RunConfig(Protocol):
    """What every named run's configuration has."""

    @property
    def loop(self) -> LoopConfig: ...


Run = TypeVar("Run", bound=RunConfig)


class ConfigError(Exception):
    """An override that names no setting or does not parse; the message says which."""


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


def described(config: RunConfig) -> dict[str, object]:
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
