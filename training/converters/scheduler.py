"""`scheduler_config.json` of a diffusers folder as a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from service.core.artifact import ArtifactError, ScheduleSpec
from service.core.ddim import PredictionType
from service.core.lcm import ORIGINAL_STEPS, TIMESTEP_SCALING
from service.core.schedule import Betas, Spacing
from training.converters.config import Config
from training.converters.record import ConvertError

Sampler = Literal["ddim", "lcm"]
Start = Literal["noise", "zeros"]

SAMPLERS: Mapping[str, Sampler] = {"DDIMScheduler": "ddim", "LCMScheduler": "lcm"}
_BETAS: Mapping[str, Betas] = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
}
_PREDICTIONS: Mapping[str, PredictionType] = {
    "epsilon": "epsilon",
    "v_prediction": "v",
    "sample": "sample",
}
_SPACINGS: Mapping[str, Spacing] = {
    "leading": "leading",
    "trailing": "trailing",
    "linspace": "linspace",
}


def read_schedule(config: Config, start: Start) -> ScheduleSpec:
    """The schedule that a file states.

    Fields that older files do not have yet mean what the library takes them for. Raises
    ConvertError for what cannot be sampled here.
    """
    _require_supported(config)
    sampler = config.choose("_class_name", SAMPLERS)
    if sampler == "lcm":
        _require_distilled(config)
    spacing: Spacing = "leading"  # what every file without the field was written for
    if config.stated("timestep_spacing") is not None:
        spacing = config.choose("timestep_spacing", _SPACINGS)
    try:
        return ScheduleSpec(
            betas=config.choose("beta_schedule", _BETAS),
            num_timesteps=config.read("num_train_timesteps", int),
            beta_start=config.read("beta_start", float),
            beta_end=config.read("beta_end", float),
            zero_terminal_snr=config.default("rescale_betas_zero_snr", bool, False),
            set_alpha_to_one=config.default("set_alpha_to_one", bool, True),
            spacing=spacing,
            steps_offset=config.default("steps_offset", int, 0),
            prediction_type=config.choose("prediction_type", _PREDICTIONS),
            sampler=sampler,
            start=start,
        )
    except ArtifactError as error:
        raise ConvertError(f"{config.path}: {error}") from error


def _require_supported(config: Config) -> None:
    if config.stated("trained_betas") is not None:
        raise ConvertError(f"{config.path}: trained_betas are not supported")
    # Left out, clip_sample means true for DDIM: such a file is of a model in pixel space.
    clips = config.default("clip_sample", bool, config.stated("_class_name") == "DDIMScheduler")
    for field, value in (
        ("clip_sample", clips),
        ("thresholding", config.default("thresholding", bool, False)),
    ):
        if value:
            raise ConvertError(f"{config.path}: {field} is true, which is not supported")


def _require_distilled(config: Config) -> None:
    """The constants of distillation that our sampler has fixed, as every public model has."""
    for field, ours in (
        ("original_inference_steps", float(ORIGINAL_STEPS)),
        ("timestep_scaling", TIMESTEP_SCALING),
    ):
        if config.default(field, float, ours) != ours:
            raise ConvertError(f"{config.path}: {field} must be {ours:g}")
