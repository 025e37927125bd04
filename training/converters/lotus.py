"""Lotus depth, disparity and normals (arXiv 2409.18124): one step, which answers x_0 itself.

The folder is Stable Diffusion's with a UNet that has a task switcher. Lotus G starts from noise;
Lotus D sees the picture alone and answers the same for every seed. The released pipeline asks its
network once at t = 999 and never asks the scheduler, so neither does this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from service.core.artifact import ScheduleSpec
from service.core.encodings import X
from training.converters.autoencoder import Autoencoder, require_same_latents
from training.converters.config import Config, read_config
from training.converters.expectations import conflicts
from training.converters.latent_diffusion import (
    chosen_autoencoder,
    encoder_spec,
    latent_spec,
    licences,
    provenance,
)
from training.converters.quantities import chosen_quantity, served_task
from training.converters.record import Conversion, ConvertError, Request
from training.converters.scheduler import Start
from training.converters.unet import (
    Joined,
    UNet,
    condition_first,
    condition_only,
    read_unet,
    unet_files,
)

RESOLUTION = 768  # of the released pipelines, whose folders do not say it
_X: X = "left"  # of its normals, learnt as DSINE draws them
_SWITCH = (1.0, 0.0)  # "predict" rather than "reconstruct", as the released scripts pass it
_NOTE = (
    "Lotus draws the picture's latent at random around its mean; here it is the mean, so that the "
    "same request has the same answer"
)


@dataclass(frozen=True)
class _Mode:
    """What distinguishes the two kinds; the UNet sees `parts` latents side by side."""

    name: str
    parts: int
    start: Start
    join: Joined


MODES = (_Mode("D", 1, "zeros", condition_only), _Mode("G", 2, "noise", condition_first))


def task_switch() -> Tensor:
    """sin and cos of the task's two numbers, (1, 4)."""
    return torch.tensor([[f(x) for f in (math.sin, math.cos) for x in _SWITCH]])


def convert_lotus(request: Request) -> Conversion:
    """Read a Lotus folder; raises ConvertError."""
    request.refuse("lotus", "heads")
    folder = request.checkpoint.folder
    if request.variant is not None:
        raise ConvertError("--variant: whether a Lotus is D or G shows in its UNet's input")
    index = read_config(folder / "model_index.json")
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    unet, autoencoder = read_unet(folder), chosen_autoencoder(request)
    mode = _mode(unet, autoencoder)
    quantity = chosen_quantity(request, index)
    notes = [
        *conflicts("lotus", (scheduler, unet.config, autoencoder.config)),
        *autoencoder.notes,
        *quantity.notes(_X),
        _NOTE,
    ]
    encoder, decoder = f"{request.name}_encoder", f"{request.name}_decoder"
    denoiser = f"{request.name}_denoiser"
    files = (index.path, scheduler.path, *unet_files(unet), *autoencoder.files)
    return Conversion(
        description=f"Lotus {mode.name}, {quantity.description} in one step",
        licence=licences(request),
        provenance=provenance(request, "lotus", files, notes),
        notes=tuple(notes),
        schedule=_one_step(scheduler, mode.start),
        latent=latent_spec(autoencoder),
        condition_channels=autoencoder.channels,
        timestep_dtype="int64",
        has_labels=False,
        encoders=(encoder_spec(encoder, request.resolution or RESOLUTION, autoencoder.factor),),
        denoiser=denoiser,
        decoder=decoder,
        tasks=(
            served_task(
                quantity,
                encoder,
                quantity.encoding(index, _X),
                steps=request.steps or 1,
                max_steps=1,
                members=request.members or 1,
                reduction=quantity.reduction,
            ),
        ),
        parts=(
            *autoencoder.parts(encoder, decoder),
            unet.part(denoiser, autoencoder.factor, mode.join, task_switch()),
        ),
        multiple=autoencoder.factor,
    )


def _mode(unet: UNet, autoencoder: Autoencoder) -> _Mode:
    require_same_latents(autoencoder, unet.out_channels, unet.config)
    config = unet.config
    width = config.read("projection_class_embeddings_input_dim", int)
    if width != (expected := task_switch().shape[1]):
        raise ConvertError(
            f"{config.path}: projection_class_embeddings_input_dim is {width}, and the task "
            f"switcher has {expected} numbers"
        )
    for mode in MODES:
        if unet.in_channels == mode.parts * unet.out_channels:
            return mode
    raise ConvertError(
        f"{config.path}: in_channels is {unet.in_channels}: Lotus D has {unet.out_channels}, "
        f"Lotus G {2 * unet.out_channels}"
    )


def _one_step(scheduler: Config, start: Start) -> ScheduleSpec:
    """One trailing step from the last timestep that lands on the network's answer.

    A prediction of x_0 with the last noise level at 0 makes the update x_0 = prediction, so that no
    other number of the schedule matters.
    """
    return ScheduleSpec(
        betas="scaled_linear",
        num_timesteps=scheduler.read("num_train_timesteps", int),
        beta_start=scheduler.read("beta_start", float),
        beta_end=scheduler.read("beta_end", float),
        zero_terminal_snr=False,
        set_alpha_to_one=True,
        spacing="trailing",
        steps_offset=0,
        prediction_type="sample",
        sampler="ddim",
        start=start,
    )
