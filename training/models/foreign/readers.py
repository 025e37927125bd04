"""Readers of the published files of the DiT family; see the package's table of kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from training.checkpoint import CheckpointError
from training.models.dit import DiTConfig
from training.models.foreign import facebook
from training.models.foreign.diffusers_dit import is_diffusers, read_diffusers
from training.models.foreign.foreign import Foreign, Kind
from training.models.foreign.layout import check_positions, rebuilt
from training.models.foreign.shapes import Told, read_shape
from training.models.foreign.tensors import Tensors, read_tensors

_CLASSES = 1000
_PICTURES = 3  # in the generalist's input: the image, the prompt and what is denoised


def read_dit(path: Path, heads: int | None = None) -> Foreign:
    """A `.pt` of facebookresearch/DiT. `heads` is needed for sizes that were not published.

    Raises CheckpointError where the file is not one.
    """
    return _read(path, "dit", Told(heads))


def read_dit_moe(path: Path, heads: int | None = None, active: int = 2) -> Foreign:
    """A `.pt` of feizc/DiT-MoE, whose tokens each see `active` experts.

    Raises CheckpointError where the file is not one.
    """
    return _read(path, "dit-moe", Told(heads, active))


def read_generalist(path: Path, heads: int | None = None, active: int = 2) -> Foreign:
    """The perception paper's generalist, as a denoiser that takes [latent of the image, of the
    prompt] as its condition and predicts without a variance.

    Labels are the published ones: 1000 depth, 1001 amodal, 1002 and 1003 flow in x and y.
    Raises CheckpointError where the file is not one.
    """
    return _read(path, "scaling-perception", Told(heads, active))


def read_foreign(path: Path, heads: int | None = None, original: bool = False) -> Foreign:
    """Whichever kind lies there. `original` is for `read_diffusers`.

    Raises CheckpointError where it is none of them.
    """
    if path.is_dir():
        found = read_diffusers(path, original)
        if heads not in (None, found.config.heads):
            raise CheckpointError(f"{path} states {found.config.heads} heads, not {heads}")
        return found
    return _read(path, None, Told(heads))


def is_foreign(path: Path) -> bool:
    """Whether a path is meant as a checkpoint of others: a file, or a model of diffusers."""
    return path.is_file() or is_diffusers(path)


@dataclass(frozen=True)
class _Form:
    """One kind of file: a tensor that only it has, its input layers, what is done in the end."""

    sign: str
    convolutions: tuple[str, ...]
    finish: Callable[[DiTConfig, dict[str, Tensor], str], DiTConfig]
    notes: tuple[str, ...]


def _as_published(config: DiTConfig, state: dict[str, Tensor], source: str) -> DiTConfig:
    del state, source
    return config


def _perceiving(config: DiTConfig, state: dict[str, Tensor], source: str) -> DiTConfig:
    """Puts the input channels into our order and leaves the variance out, in place."""
    routes, expected = config.routes, _CLASSES + config.routes + 1
    if config.num_labels != expected:
        raise CheckpointError(
            f"{source}: y_embedder.embedding_table has {config.num_labels} rows, not {expected}: "
            f"labels {_CLASSES} to {_CLASSES + routes - 1} choose an input convolution"
        )
    channels, extra = divmod(config.in_channels, _PICTURES)
    if extra or config.out_channels != 2 * channels:
        raise CheckpointError(
            f"{source} has {config.in_channels} channels in and {config.out_channels} out, not "
            f"{_PICTURES} latents and one with its variance"
        )
    latent = channels * config.patch**2
    weight = state["embed.weight"]  # (routes, 3 * latent, D)
    state["embed.weight"] = torch.cat([weight[:, 2 * latent :], weight[:, : 2 * latent]], dim=1)
    for name in ("head.weight", "head.bias"):
        state[name] = state[name][:latent].clone()
    return replace(config, out_channels=channels, first_task_label=_CLASSES)


# The kinds by their signs, the most particular first.
_FORMS: Mapping[Kind, _Form] = MappingProxyType(
    {
        "scaling-perception": _Form(
            "x_embedder.proj.conv_in_1.weight",
            facebook.CONVOLUTIONS,
            _perceiving,
            (
                "input channels reordered from [image, prompt, noisy] to [noisy, image, prompt]",
                "the output's variance is left out",
                "the file does not say what it predicts: the scheduler beside its autoencoder does",
            ),
        ),
        "dit-moe": _Form(
            "blocks.0.moe.gate.weight",
            facebook.CONVOLUTION,
            _as_published,
            (
                "the file does not say whether it predicts noise at timesteps 0 to 999 or, as the "
                "published XL and G do, the velocity of a rectified flow at times 0 to 1",
            ),
        ),
        "dit": _Form(
            "blocks.0.mlp.fc1.weight",
            facebook.CONVOLUTION,
            _as_published,
            ("the family predicts noise, with 1000 linear betas from 1e-4 to 0.02",),
        ),
    }
)


def _read(path: Path, wanted: Kind | None, told: Told) -> Foreign:
    found = read_tensors(path)
    kind = _kind(found)
    if wanted is not None and kind != wanted:
        raise CheckpointError(f"{path} is a {kind} checkpoint, not a {wanted} one")
    form = _FORMS[kind]
    published = read_shape(found, form.convolutions, told)
    if facebook.POSITIONS not in found.weights:
        raise CheckpointError(f"{path} has no {facebook.POSITIONS}")
    positions = found.weights.pop(facebook.POSITIONS)
    latent_size = check_positions(positions, published, found.source)
    layout = facebook.layout(published, form.convolutions)
    state = rebuilt(found.weights, layout, published, found.source)
    config = form.finish(published, state, found.source)
    notes = (*found.notes, *form.notes, *_untold(published))
    return Foreign(kind, config, state, latent_size, notes)


def _kind(found: Tensors) -> Kind:
    for kind, form in _FORMS.items():
        if form.sign in found.weights:
            return kind
    signs = ", ".join(form.sign for form in _FORMS.values())
    raise CheckpointError(f"{found.source} is no network of the DiT family: it has none of {signs}")


def _untold(config: DiTConfig) -> tuple[str, ...]:
    """What was taken for granted."""
    notes = [] if config.qk_norm else [f"{config.heads} heads, which the file does not say"]
    if config.experts is not None:
        active = config.experts.active
        notes.append(f"{active} active experts, not renormalised, which the file does not say")
    if config.qk_norm:
        notes.append("published to attend in float16")
    return tuple(notes)
