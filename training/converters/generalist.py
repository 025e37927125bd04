"""The perception paper's released generalist (arXiv 2411.08034): depth, flow and amodal completion.

The checkpoint is one file of `torch.save` with a diffusion transformer of experts. Its autoencoder
and its scheduler are Stable Diffusion 2's, in a diffusers folder of their own (`--vae`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from service.core.artifact import (
    MAX_MEMBERS,
    MAX_STEPS,
    Component,
    EncoderSpec,
    FixedGrid,
    FixedSize,
    LatentSpec,
    ScheduleSpec,
    ServedTask,
)
from service.core.ensemble import Reduction
from service.core.sizes import Size
from service.core.tasks import TASKS, TaskName
from training.converters.autoencoder import Autoencoder, require_same_latents
from training.converters.config import Config, read_config
from training.converters.expectations import conflicts, spacing_conflicts
from training.converters.latent_diffusion import chosen_autoencoder, licences, provenance
from training.converters.record import Conversion, ConvertError, Part, Request, Source
from training.converters.scheduler import read_schedule
from training.converters.transformer import Transformer, read_transformer
from training.models.dit import DiTConfig
from training.targets import PAPER

STEPS, MEMBERS = 50, 5
_SCHEDULER = Path("scheduler") / "scheduler_config.json"
_SAMPLER = "DDIMScheduler"  # what the release reads the file as, whatever class it names
_PICTURES = 2  # in the condition: the image and the prompt
_DEPTH_PROMPT = 1.0  # in place of the mask of valid pixels, which was 0 or 1: valid everywhere

# Of the three, only depth is free in scale and shift.
_REDUCTIONS: Mapping[TaskName, Reduction] = MappingProxyType(
    {"depth": "aligned", "flow": "mean", "amodal": "median"}
)
_NOTES = (
    f"by default {STEPS} steps, which the release's configuration has, and {MEMBERS} members, "
    "which the paper's best recipe has, with 200 steps; the release's own examples take 3 members "
    "for depth and flow and 1 for amodal",
    "flow is in units of 75 px of 512 x 384 frames, of which the vertical one is inferred from how "
    "the release reads FlyingChairs",
    "the mask is where the predicted picture is not white (grey above 250 of 255), as pix2gestalt "
    "does, since the release makes none",
    "pictures are resized bilinearly; the release takes the nearest pixel",
)


class _Encoder(nn.Module):
    """`condition` (B, 2C, h, w) of `image` and `prompt` (B, 3, H, W): the latents of both."""

    def __init__(self, picture: nn.Module) -> None:
        super().__init__()
        self.picture = picture

    def forward(self, image: Tensor, prompt: Tensor) -> Tensor:
        """One after the other, which needs half the memory of both at once."""
        return torch.cat([self.picture(image), self.picture(prompt)], dim=1)


def convert_generalist(request: Request) -> Conversion:
    """Read the released file and the folder beside it; raises ConvertError."""
    _require_no_choice(request)
    denoiser = read_transformer(_weights_file(request.checkpoint), request.heads)
    autoencoder = _autoencoder(request, denoiser)
    scheduler = _scheduler(request)
    notes = [
        *denoiser.notes,
        *conflicts("scaling-perception", (scheduler, autoencoder.config)),
        *spacing_conflicts(scheduler),
        *_schedule_notes(scheduler),
        *autoencoder.notes,
        *_NOTES,
    ]
    name, factor, side = request.name, autoencoder.factor, denoiser.latent_size
    encoder = f"{name}_encoder"
    part, decoder = autoencoder.parts(encoder, f"{name}_decoder")
    files = (denoiser.path, scheduler.path, *autoencoder.files)
    return Conversion(
        description="Generalist for relative depth, optical flow and amodal completion by latent "
        "diffusion, as published with the paper on scaling perception",
        licence=licences(request),
        provenance=provenance(request, "scaling-perception", files, notes),
        notes=tuple(notes),
        schedule=_schedule(scheduler),
        latent=LatentSpec(autoencoder.channels, FixedGrid(side, side), autoencoder.scale),
        condition_channels=_PICTURES * autoencoder.channels,
        timestep_dtype="int64",
        has_labels=True,
        encoders=(
            EncoderSpec(encoder, FixedSize(side * factor, side * factor), prompt=True, label=False),
        ),
        denoiser=f"{name}_denoiser",
        decoder=decoder.name,
        tasks=tuple(_task(task, encoder, denoiser.config, request) for task in _REDUCTIONS),
        parts=(_prompted(part), decoder, denoiser.part(f"{name}_denoiser", factor)),
        multiple=factor * denoiser.config.patch,
    )


def _require_no_choice(request: Request) -> None:
    request.refuse("scaling-perception", "variant", "predicts", "resolution")
    for flag, number, most in (
        ("steps", request.steps, MAX_STEPS),
        ("ensemble", request.members, MAX_MEMBERS),
    ):
        if number is not None and not 1 <= number <= most:
            raise ConvertError(f"--{flag} must be in 1..{most}, not {number}")


def _weights_file(checkpoint: Source) -> Path:
    """The file that was asked for, else the only one of its kind in the folder."""
    asked = Path(checkpoint.origin)
    if asked.is_file():
        return asked
    found = sorted(path for path in checkpoint.folder.glob("*.pt") if path.is_file())
    if len(found) != 1:
        what = ", ".join(path.name for path in found) or "none"
        raise ConvertError(f"{checkpoint.folder} must hold one .pt file, and holds {what}")
    return found[0]


def _autoencoder(request: Request, denoiser: Transformer) -> Autoencoder:
    if request.vae is None and not (request.checkpoint.folder / "vae").is_dir():
        raise ConvertError(
            f"{denoiser.path} comes without an autoencoder: pass --vae, the folder of "
            "stable-diffusion-2, whose autoencoder and scheduler it is sampled with"
        )
    found = chosen_autoencoder(request)
    require_same_latents(found, denoiser.channels, Config(denoiser.path, {}))
    return found


def _scheduler(request: Request) -> Config:
    """In the folder of the autoencoder, beside it, or beside the checkpoint."""
    folders = [request.checkpoint.folder]
    if request.vae is not None:
        folders = [request.vae.folder, request.vae.folder.resolve().parent, *folders]
    for folder in folders:
        if (folder / _SCHEDULER).is_file():
            return read_config(folder / _SCHEDULER)
    places = ", ".join(str(folder / _SCHEDULER) for folder in folders)
    raise ConvertError(
        "the scheduler of stable-diffusion-2 is needed, which says what the network predicts: "
        f"there is none of {places}"
    )


def _schedule(scheduler: Config) -> ScheduleSpec:
    """The file's numbers in DDIM, as the release's sampler reads them."""
    values = {**scheduler.values, "_class_name": _SAMPLER}
    return read_schedule(replace(scheduler, values=values), "noise")


def _schedule_notes(scheduler: Config) -> list[str]:
    """Where the file leaves something open, and where the paper's text says something else."""
    notes = []
    if scheduler.stated("_class_name") != _SAMPLER:
        notes.append(
            f"{scheduler.name} is of {scheduler.stated('_class_name')}: its numbers are taken for "
            f"{_SAMPLER}, as the release does"
        )
    if scheduler.stated("timestep_spacing") is None:
        notes.append(f"{scheduler.name} leaves timestep_spacing out, which stands for leading")
    stated = scheduler.stated("prediction_type"), scheduler.stated("beta_schedule")
    if stated != (paper := ("epsilon", "squaredcos_cap_v2")):
        notes.append(
            f"{scheduler.name} states {stated[0]} and {stated[1]}, and the paper's text tells of "
            f"{paper[0]} and a cosine schedule ({paper[1]}): the file is followed, as the release "
            "does"
        )
    return notes


def _prompted(picture: Part) -> Part:
    """The encoder of two pictures out of the encoder of one."""

    def inputs(size: Size) -> Mapping[str, Tensor]:
        image = picture.inputs(size)["image"]
        return {"image": image, "prompt": image.flip(0)}

    return Part(
        picture.name,
        picture.output,
        lambda: _Encoder(picture.skeleton()),
        lambda: _Encoder(picture.load()),
        inputs,
    )


def _task(task: TaskName, encoder: str, config: DiTConfig, request: Request) -> ServedTask:
    prompted = len(TASKS[task].images) > 1
    return ServedTask(
        task=task,
        encoder=encoder,
        prompt="second" if prompted else "constant",
        prompt_value=0.0 if prompted else _DEPTH_PROMPT,
        encoder_label=0,
        components=_components(PAPER.components[task], config.first_task_label),
        encoding=PAPER.encoding(task),
        steps=request.steps or STEPS,
        max_steps=MAX_STEPS,
        members=request.members or MEMBERS,
        reduction=_REDUCTIONS[task],
        calibration=(),
        error_metric="",
    )


def _components(components: Sequence[Component], first: int) -> tuple[Component, ...]:
    """The paper's components behind the labels of pre-training's classes."""
    return tuple(replace(component, label=first + component.label) for component in components)
