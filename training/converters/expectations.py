"""What is known of each family, only to say where a checkpoint's own files disagree.

The files win: nothing here is ever used in place of what they say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from training.converters.config import Config


@dataclass(frozen=True)
class Expectation:
    """What the members of a family state in a field of a file (`unet/config.json`), and why."""

    file: str
    field: str
    value: object
    reason: str


_SCHEDULER = "scheduler/scheduler_config.json"
_STABLE_DIFFUSION = (
    Expectation(_SCHEDULER, "beta_schedule", "scaled_linear", "as Stable Diffusion"),
    Expectation(_SCHEDULER, "beta_start", 0.00085, "as Stable Diffusion"),
    Expectation(_SCHEDULER, "beta_end", 0.012, "as Stable Diffusion"),
    Expectation("vae/config.json", "scaling_factor", 0.18215, "as Stable Diffusion"),
)
_MARIGOLD = (
    *_STABLE_DIFFUSION,
    Expectation(_SCHEDULER, "prediction_type", "v_prediction", "as Stable Diffusion 2"),
)

EXPECTATIONS: Mapping[str, tuple[Expectation, ...]] = {
    "marigold": _MARIGOLD,
    "marigold e2e": (
        *_MARIGOLD,
        Expectation(
            _SCHEDULER,
            "timestep_spacing",
            "trailing",
            "since its only step must start at the last timestep (arXiv 2409.11355)",
        ),
    ),
    "scaling-perception": (
        *_STABLE_DIFFUSION,
        Expectation(_SCHEDULER, "prediction_type", "v_prediction", "as Stable Diffusion 2"),
    ),
    "lotus": (
        Expectation(
            _SCHEDULER, "prediction_type", "sample", "whatever the file says, its network gives x_0"
        ),
        Expectation("unet/config.json", "class_embed_type", "projection", "for the task switcher"),
    ),
}


def conflicts(family: str, configs: Iterable[Config]) -> list[str]:
    """A line for every field that says something else than the family does."""
    by_name = {config.name: config for config in configs}
    found = []
    for expected in EXPECTATIONS[family]:
        config = by_name.get(expected.file)
        stated = None if config is None else config.stated(expected.field)
        if stated is not None and stated != expected.value:
            found.append(
                f"{expected.file} states {expected.field} {stated!r}, and {family} checkpoints "
                f"have {expected.value!r} ({expected.reason})"
            )
    return found


def spacing_conflicts(config: Config) -> list[str]:
    """Zero SNR at the last timestep is of no use to a sampler that never visits it."""
    spacing = config.stated("timestep_spacing") or "leading"
    if config.stated("rescale_betas_zero_snr") is True and spacing != "trailing":
        return [
            f"{config.name} states rescale_betas_zero_snr with timestep_spacing {spacing!r}, which "
            "does not start at the last timestep: few steps will be poor"
        ]
    return []
