"""How a training command is told its run: the named configuration, and overrides of its settings.

The runs themselves are in `training.runs`.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, Protocol, TypeVar, cast, get_args, get_type_hints

import torch

from service.core.record import ArtifactError, dump_record, load_record
from training.checkpoint import CheckpointError
from training.data.sample import DataError
from training.distributed import LaunchError, known_device, own_device
from training.loop import DivergedError, LoopConfig
from training.models.perception import ModelConfig
from training.models.transplant import TransplantError
from training.served_model import ExportError


class RunConfig(Protocol):
    """What every named run's configuration has."""

    @property
    def loop(self) -> LoopConfig: ...


T = TypeVar("T")
Run = TypeVar("Run", bound=RunConfig)


class ConfigError(Exception):
    """An override that names no setting or does not parse; the message says which."""


_MISTAKES = (
    ConfigError,
    ArtifactError,
    DataError,
    CheckpointError,
    ExportError,
    TransplantError,
    LaunchError,
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
    names = sorted(runs)
    parser.add_argument(
        "--run", choices=names, default=default, metavar="RUN", help=f"one of {', '.join(names)}"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the run; resumed if begun"
    )
    add_device(parser)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args(arguments)
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out {options.out} is a file, it must be a folder")
    with in_one_sentence(parser):
        run = override(runs[options.run](), options.set)
    return Launch(run, options.out, own_device(options.device)), options


def add_device(parser: ArgumentParser) -> None:
    """Adds `--device`, which must be there."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=known_device, default=default)


@contextmanager
def in_one_sentence(parser: ArgumentParser) -> Iterator[None]:
    """Ends the command with a sentence, not a traceback, where what is within cannot be done.

    The exit code is 2 where what it was told is wrong, and 1 where a run diverged.
    """
    try:
        yield
    except DivergedError as error:
        parser.exit(1, f"{parser.prog}: stopped: {error}\n")
    except _MISTAKES as error:
        parser.error(str(error))


def override(config: Run, settings: Sequence[str]) -> Run:
    """`config` with settings such as `loop.steps=200`, values in JSON. Raises ConfigError."""
    plain = described(config)
    for setting in settings:
        path, separator, text = setting.partition("=")
        if not separator:
            raise ConfigError(f"--set {setting}: expected name=value, such as loop.steps=200")
        try:
            value = json.loads(text, parse_constant=_refused)
        except ValueError as error:
            raise ConfigError(f"--set {path}: {text!r} is not JSON ({error})") from error
        _replace(plain, path, value)
    try:
        return load_record(type(config), json.dumps(plain))
    except ArtifactError as error:
        raise ConfigError(f"--set {error}") from error


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def described(config: RunConfig) -> dict[str, object]:
    """The configuration as plain JSON values, for checkpoints and model cards."""
    return dict(json.loads(dump_record(config)))


def read_model(plain: Mapping[str, object]) -> ModelConfig:
    """The model configuration that `described` wrote; raises ArtifactError."""
    return read_described(ModelConfig, plain)


def read_described(kind: type[T], plain: Mapping[str, object]) -> T:
    """A record of JSON values, also of an earlier version that lacked settings with a default.

    Raises ArtifactError naming the field that is wrong.
    """
    return load_record(kind, json.dumps(_with_defaults(kind, dict(plain))))


def _with_defaults(kind: Any, plain: object) -> object:
    """`plain` with the defaults of every setting that it lacks, at any depth."""
    members = [kind, *get_args(kind)]  # a union's first record is what it was before it was one
    records = [member for member in members if is_dataclass(member)]
    if not records or not isinstance(plain, dict):
        return plain
    told = plain.get("kind")
    fitting = [r for r in records if told in get_args(get_type_hints(r).get("kind"))]
    record: Any = (fitting or records)[0]
    hints, completed = get_type_hints(record), dict(plain)
    for setting in fields(record):
        if setting.name in plain:
            value = _with_defaults(hints[setting.name], plain[setting.name])
            completed[setting.name] = value
        elif setting.default is not MISSING:
            completed[setting.name] = _plain(setting.default)
        elif setting.default_factory is not MISSING:
            completed[setting.name] = _plain(setting.default_factory())
    return completed


def _plain(value: object) -> object:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


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
