"""diffusers' modules, built empty from their config and made ready for export."""

from __future__ import annotations

from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.converters.config import Config
from training.converters.record import ConvertError


def build_empty(config: Config, kind: str) -> nn.Module:
    """A diffusers model of class `kind` on the meta device; raises ConvertError."""
    try:
        import diffusers
    except ImportError:
        raise ConvertError("public checkpoints need diffusers: pip install diffusers") from None
    try:
        with torch.device("meta"):
            module: nn.Module = getattr(diffusers, kind).from_config(dict(config.values))
    except (TypeError, ValueError) as error:
        raise ConvertError(f"{config.path} does not describe a {kind}: {error}") from error
    return module.requires_grad_(False).eval()


def plain_upsampling(module: nn.Module) -> nn.Module:
    """Replace what upsampling layers do beside interpolating.

    diffusers compares sizes with limits of old GPU kernels there, which would become a limit of
    every exported network.
    """
    from diffusers.models.upsampling import Upsample2D

    for layer in module.modules():
        if isinstance(layer, Upsample2D):
            _require_interpolation(layer)
            setattr(layer, "forward", MethodType(_upsample, layer))  # noqa: B010
    return module


def _require_interpolation(layer: nn.Module) -> None:
    if layer.use_conv_transpose or not layer.interpolate or layer.norm is not None:
        raise ConvertError("upsampling by transposed convolution is not supported")


def _upsample(
    layer: nn.Module, image: Tensor, output_size: tuple[int, int] | None = None
) -> Tensor:
    """Twice as large, or of the size of what it will be joined with."""
    if output_size is None:
        larger = functional.interpolate(image, scale_factor=2.0, mode="nearest")
    else:
        larger = functional.interpolate(image, size=output_size, mode="nearest")
    convolve = layer.conv if getattr(layer, "use_conv", False) else nn.Identity()
    convolved: Tensor = convolve(larger)  # type: ignore[operator]
    return convolved
