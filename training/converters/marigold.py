"""Marigold (arXiv 2312.02145, 2505.09358): depth and normals, LCM, and end-to-end fine-tunes.

The folder is diffusers' `MarigoldDepthPipeline` or `MarigoldNormalsPipeline`. An end-to-end
fine-tune (arXiv 2409.11355) is published as a `StableDiffusionPipeline`, which says neither what it
predicts nor that it starts from zeros instead of noise: both are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.core.artifact import MAX_STEPS, ScheduleSpec
from service.core.encodings import X
from service.core.lcm import ORIGINAL_STEPS
from training.converters.autoencoder import require_same_latents
from training.converters.config import Config, read_config
from training.converters.expectations import conflicts, spacing_conflicts
from training.converters.latent_diffusion import (
    chosen_autoencoder,
    encoder_spec,
    latent_spec,
    licences,
    provenance,
)
from training.converters.quantities import chosen_quantity, served_task
from training.converters.record import Conversion, ConvertError, Request
from training.converters.scheduler import Start, read_schedule
from training.converters.unet import condition_first, read_unet, unet_files


@dataclass(frozen=True)
class _Variant:
    """How a variant is sampled, how many steps it can use at most, and where its normals' x points.

    The fine-tunes learnt normals as DSINE draws them: what faces left has the larger x.
    """

    family: str
    start: Start
    max_steps: int
    x: X


VARIANTS: Mapping[str, _Variant] = {
    "diffusion": _Variant("marigold", "noise", MAX_STEPS, "right"),
    "e2e": _Variant("marigold e2e", "zeros", 1, "left"),
}
_SAMPLER_STEPS: Mapping[str, int] = {"ddim": MAX_STEPS, "lcm": ORIGINAL_STEPS}


def convert_marigold(request: Request) -> Conversion:
    """Read a Marigold folder; raises ConvertError."""
    request.refuse("marigold", "heads")
    folder = request.checkpoint.folder
    variant = _variant(request)
    index = read_config(folder / "model_index.json")
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    schedule = read_schedule(scheduler, variant.start)
    unet, autoencoder = read_unet(folder), chosen_autoencoder(request)
    require_same_latents(autoencoder, unet.out_channels, unet.config)
    if unet.in_channels != 2 * unet.out_channels:
        raise ConvertError(
            f"{unet.config.path}: in_channels must be {2 * unet.out_channels}, the picture's "
            f"latent and the noisy one, not {unet.in_channels}"
        )
    quantity = chosen_quantity(request, index)
    notes = [
        *conflicts(variant.family, (scheduler, unet.config, autoencoder.config)),
        *spacing_conflicts(scheduler),
        *_hints(request, index, schedule),
        *autoencoder.notes,
        *quantity.notes(variant.x),
    ]
    encoder, decoder = f"{request.name}_encoder", f"{request.name}_decoder"
    denoiser = f"{request.name}_denoiser"
    resolution = request.resolution or _asked(index, "default_processing_resolution", "resolution")
    max_steps = min(variant.max_steps, _SAMPLER_STEPS[schedule.sampler])
    affine = _invariant(index, "scale") and _invariant(index, "shift")
    files = (index.path, scheduler.path, *unet_files(unet), *autoencoder.files)
    return Conversion(
        description=f"Marigold, {quantity.description} by latent diffusion",
        licence=licences(request),
        provenance=provenance(request, variant.family, files, notes),
        notes=tuple(notes),
        schedule=schedule,
        latent=latent_spec(autoencoder),
        condition_channels=autoencoder.channels,
        timestep_dtype="int64",
        has_labels=False,
        encoders=(encoder_spec(encoder, resolution, autoencoder.factor),),
        denoiser=denoiser,
        decoder=decoder,
        tasks=(
            served_task(
                quantity,
                encoder,
                quantity.encoding(index, variant.x),
                steps=request.steps or _steps(index, max_steps),
                max_steps=max_steps,
                members=request.members or 1,
                reduction=quantity.reduction if affine else quantity.as_they_are,
            ),
        ),
        parts=(
            *autoencoder.parts(encoder, decoder),
            unet.part(denoiser, autoencoder.factor, condition_first),
        ),
        multiple=autoencoder.factor,
    )


def _variant(request: Request) -> _Variant:
    name = request.variant or "diffusion"
    if name not in VARIANTS:
        raise ConvertError(f"--variant is one of {', '.join(VARIANTS)}, not {name}")
    return VARIANTS[name]


def _steps(index: Config, max_steps: int) -> int:
    """The default, which is no question where there can be only one step."""
    return 1 if max_steps == 1 else _asked(index, "default_denoising_steps", "steps")


def _asked(index: Config, field: str, flag: str) -> int:
    value = index.maybe(field, int)
    if value is None:
        raise ConvertError(f"{index.path} does not state {field}: pass --{flag}")
    return value


def _invariant(index: Config, of: str) -> bool:
    return index.default(f"{of}_invariant", bool, True)


def _hints(request: Request, index: Config, schedule: ScheduleSpec) -> list[str]:
    """What a person should look at, since no file settles it."""
    hints = []
    scale, shift = _invariant(index, "scale"), _invariant(index, "shift")
    if scale and not shift:
        hints.append(
            f"{index.path.name} states shift_invariant false with scale_invariant true: members "
            "are reduced by their median as they are, without a scale of their own"
        )
    trailing = schedule.spacing == "trailing" and not schedule.zero_terminal_snr
    if trailing and schedule.sampler == "ddim" and request.variant is None:
        hints.append(
            "trailing steps without rescale_betas_zero_snr are how end-to-end fine-tunes are "
            "published: if this is one, which starts from zeros, pass --variant e2e"
        )
    return hints
