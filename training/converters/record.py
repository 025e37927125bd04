"""What a converter is given and what it returns; the same for every family of checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from service.core.artifact import EncoderSpec, LatentSpec, ScheduleSpec, ServedTask
from service.core.sizes import Size


class ConvertError(Exception):
    """A checkpoint cannot be converted; the message names the file and the field."""


@dataclass(frozen=True)
class Source:
    """A folder of a checkpoint, and the path or hub id it was asked for by."""

    folder: Path
    origin: str


@dataclass(frozen=True)
class Request:
    """What is wanted of a checkpoint. None leaves the choice to its own files.

    `vae` replaces the checkpoint's autoencoder. `variant`, `predicts`, `heads` and the licences say
    what no file of some checkpoints does.
    """

    name: str
    checkpoint: Source
    vae: Source | None = None
    resolution: int | None = None
    steps: int | None = None
    members: int | None = None
    variant: str | None = None
    predicts: str | None = None
    licence: str | None = None
    vae_licence: str | None = None
    heads: int | None = None

    def refuse(self, family: str, *flags: str) -> None:
        """Raise ConvertError where one of `flags` was given, since a family's files settle it."""
        for flag in flags:
            if getattr(self, flag) is not None:
                raise ConvertError(f"--{flag} is not for {family}, whose files settle it")


@dataclass(frozen=True)
class Part:
    """One network, before its weights are read.

    `skeleton` builds it without numbers, on torch's meta device; `load` with the checkpoint's, in
    float32. `inputs` are example inputs (a batch of two) for pictures of a size in pixels.
    """

    name: str
    output: str
    skeleton: Callable[[], nn.Module]
    load: Callable[[], nn.Module]
    inputs: Callable[[Size], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Conversion:
    """A checkpoint as a served model: its networks, and all else that an artifact says.

    `parts` are the encoders, the denoiser and the decoder, to be loaded one after the other;
    `notes` what a person should know about what the files say.
    """

    description: str
    licence: str
    provenance: Mapping[str, str]
    notes: tuple[str, ...]
    schedule: ScheduleSpec
    latent: LatentSpec
    condition_channels: int
    timestep_dtype: Literal["int64", "float32"]
    has_labels: bool
    encoders: tuple[EncoderSpec, ...]
    denoiser: str
    decoder: str
    tasks: tuple[ServedTask, ...]
    parts: tuple[Part, ...]
    multiple: int  # pixels that the sides of a picture are multiples of


Converter = Callable[[Request], Conversion]
