"""What the model's output channels mean: task units to the encoded range [-1, 1] and back.

Arrays are batched over any leading axes; encoded fields are float32 and may exceed [-1, 1].
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32

from service.core.directions import Directions, normalized
from service.core.record import require

SMALLEST_RANGE = 1e-6  # of depth values: a flat scene is all near rather than a division by zero
SMALLEST_COMPANDING = 1e-3  # less is linear, but for float32's rounding


@dataclass(frozen=True)
class DepthEncoding:
    """Affine-invariant depth: its low and high quantile in an image become -1 (near) and +1.

    Of disparity (inverse depth, any scale and offset) the reverse is decoded, so that 0 is nearest
    there too. Companding c stores log(1 + c u) / log(1 + c) of the relative depth u in 0..1, which
    gives near things more of the range: a street would otherwise leave them next to nothing. 0 is
    linear.
    """

    low_quantile: float = 0.02
    high_quantile: float = 0.98
    companding: float = 0.0
    quantity: Literal["depth", "disparity"] = "depth"
    kind: Literal["depth"] = "depth"

    def __post_init__(self) -> None:
        linear = self.quantity == "depth" or self.companding == 0
        require(linear, "companding", "must be 0 for disparity")
        ordered = 0 <= self.low_quantile < self.high_quantile <= 1
        require(ordered, "low_quantile", "must be below high_quantile, both in 0..1")
        _require_companding(self.companding)

    @property
    def unit(self) -> str:
        """What answers are in."""
        return {"depth": "relative depth", "disparity": "1 - relative disparity"}[self.quantity]

    def encode(
        self, depth: Float[np.ndarray, "*b h w"], valid: Bool[np.ndarray, "*b h w"]
    ) -> Float32[np.ndarray, "*b h w"]:
        """Encode depth in any unit to [-1, 1], clipped; invalid pixels count as far.

        Raises ValueError for an image without a valid pixel.
        """
        if not valid.any(axis=(-2, -1)).all():
            raise ValueError("an image without valid depth has no scale")
        known = np.where(valid, depth, np.nan)
        low, high = np.nanquantile(
            known, (self.low_quantile, self.high_quantile), axis=(-2, -1), keepdims=True
        )
        unit = np.clip((known - low) / np.maximum(high - low, SMALLEST_RANGE), 0, 1)
        if self.companding:
            unit = np.log1p(self.companding * unit) / math.log1p(self.companding)
        return np.where(valid, 2 * unit - 1, 1).astype(np.float32)

    def decode(self, y: Float32[np.ndarray, "*b h w"]) -> Float32[np.ndarray, "*b h w"]:
        """Decode to relative depth, or relative disparity reversed, in [0, 1], 0 nearest."""
        unit = _to_unit_range(y)
        if self.companding:
            unit = np.expm1(unit * math.log1p(self.companding)) / self.companding
        return self.turn(unit)

    def turn(self, relative: Float32[np.ndarray, "*b h w"]) -> Float32[np.ndarray, "*b h w"]:
        """Between what was predicted, relative in [0, 1], and 0 nearest; either way."""
        return 1 - relative if self.quantity == "disparity" else relative


@dataclass(frozen=True)
class FlowEncoding:
    """Flow in pixels of a reference size over a divisor per axis, optionally companded.

    Companding c stores y = asinh(c z) / asinh(c), which gives small motions more of the range; 0 is
    linear. The axes keep their own divisor and reference side, since images are stretched to the
    model's size and some released loaders scale only one of them.
    """

    divisor_x: float
    divisor_y: float
    reference_width: int
    reference_height: int
    companding: float
    kind: Literal["flow"] = "flow"

    def __post_init__(self) -> None:
        for name in ("divisor_x", "divisor_y", "reference_width", "reference_height"):
            require(getattr(self, name) > 0, name, "must be positive")
        _require_companding(self.companding)

    @property
    def unit(self) -> str:
        """What answers are in."""
        return "px of the upload"

    def encode(
        self,
        u: Float32[np.ndarray, "*b h w"],
        v: Float32[np.ndarray, "*b h w"],
        width: int,
        height: int,
    ) -> tuple[Float32[np.ndarray, "*b h w"], Float32[np.ndarray, "*b h w"]]:
        """Encode (u right, v down) in pixels of a `width` x `height` image; never clipped."""
        x_px, y_px = self._pixels_per_unit(width, height)
        return self._compand(u / x_px), self._compand(v / y_px)

    def decode(
        self,
        y_u: Float32[np.ndarray, "*b h w"],
        y_v: Float32[np.ndarray, "*b h w"],
        width: int,
        height: int,
    ) -> tuple[Float32[np.ndarray, "*b h w"], Float32[np.ndarray, "*b h w"]]:
        """Decode to (u right, v down) in pixels of a `width` x `height` image."""
        x_px, y_px = self._pixels_per_unit(width, height)
        return self._expand(y_u) * x_px, self._expand(y_v) * y_px

    def _pixels_per_unit(self, width: int, height: int) -> tuple[float, float]:
        return (
            self.divisor_x * width / self.reference_width,
            self.divisor_y * height / self.reference_height,
        )

    def _compand(self, z: Float32[np.ndarray, "*b h w"]) -> Float32[np.ndarray, "*b h w"]:
        if self.companding == 0:
            return z
        return np.arcsinh(self.companding * z) / math.asinh(self.companding)

    def _expand(self, y: Float32[np.ndarray, "*b h w"]) -> Float32[np.ndarray, "*b h w"]:
        if self.companding == 0:
            return y
        return np.sinh(y * math.asinh(self.companding)) / self.companding


@dataclass(frozen=True)
class AmodalEncoding:
    """A whole object: its mask as -1 / +1, its appearance as RGB on a plain background.

    `background` is the grey level outside the object and `threshold` the distance from it beyond
    which a pixel counts as object, both in encoded units.
    """

    background: float
    threshold: float
    kind: Literal["amodal"] = "amodal"

    def __post_init__(self) -> None:
        require(-1 <= self.background <= 1, "background", "must be in -1..1")
        require(0 < self.threshold < 2, "threshold", "must be between 0 and 2")

    @property
    def unit(self) -> str:
        """What answers are in."""
        return "coverage"

    def encode_mask(self, mask: Float32[np.ndarray, "*b h w"]) -> Float32[np.ndarray, "*b h w"]:
        """Encode coverage in [0, 1] to [-1, 1]."""
        return 2 * mask - 1

    def decode_mask(self, y: Float32[np.ndarray, "*b h w"]) -> Float32[np.ndarray, "*b h w"]:
        """Decode to coverage in [0, 1]."""
        return _to_unit_range(y)

    def encode_appearance(
        self, rgb: Float32[np.ndarray, "*b 3 h w"], mask: Float32[np.ndarray, "*b h w"]
    ) -> Float32[np.ndarray, "*b 3 h w"]:
        """Lay RGB in [-1, 1] over the background by coverage in [0, 1]."""
        coverage = mask[..., None, :, :]
        return coverage * rgb + (1 - coverage) * self.background

    def decode_appearance(
        self, y: Float32[np.ndarray, "*b 3 h w"]
    ) -> Float32[np.ndarray, "*b 3 h w"]:
        """Decode to RGB in [0, 1]."""
        return _to_unit_range(y)

    def mask_from_appearance(
        self, y: Float32[np.ndarray, "*b 3 h w"]
    ) -> Float32[np.ndarray, "*b h w"]:
        """Return 1 where any channel is further than `threshold` from the background, else 0."""
        distance = np.abs(y - self.background).max(axis=-3)
        return (distance > self.threshold).astype(np.float32)


# Which way the axes of a model's normals point, and how much of the last one is used.
X = Literal["right", "left"]
Y = Literal["up", "down"]
Z = Literal["viewer", "scene"]
ZRange = Literal["full", "half"]


@dataclass(frozen=True)
class NormalsEncoding:
    """Surface normals: x, y and z of unit vectors, each in [-1, 1].

    Answers have x to the right, y up and z toward the viewer: a wall seen head-on is (0, 0, 1). A
    model's own axes may point elsewhere, as `x`, `y` and `z` say; with `z_range` "half" its z, of
    which only 0..1 occurs, fills the encoded range.
    """

    x: X = "right"
    y: Y = "up"
    z: Z = "viewer"
    z_range: ZRange = "full"
    kind: Literal["normals"] = "normals"

    @property
    def unit(self) -> str:
        """What answers are in."""
        return "unit vector: x right, y up, z to the viewer"

    def encode(self, normals: Directions) -> Directions:
        """Encode unit vectors of the answer's axes, exactly."""
        scale, offset = _Z_RANGES[self.z_range]
        y = normals * self._signs()
        y[..., 2, :, :] = (y[..., 2, :, :] - np.float32(offset)) / np.float32(scale)
        return y

    def decode(self, y: Directions) -> Directions:
        """Decode to unit vectors; one shorter than 1e-6 has no direction and stays short."""
        scale, offset = _Z_RANGES[self.z_range]
        vectors = np.clip(y, -1, 1)
        vectors[..., 2, :, :] = vectors[..., 2, :, :] * np.float32(scale) + np.float32(offset)
        return normalized(vectors) * self._signs()

    def _signs(self) -> Float32[np.ndarray, "3 1 1"]:
        signs = [_AXES[self.x], _AXES[self.y], _AXES[self.z]]
        return np.array(signs, dtype=np.float32)[:, None, None]


_AXES = {"right": 1, "left": -1, "up": 1, "down": -1, "viewer": 1, "scene": -1}
_Z_RANGES = {"full": (1.0, 0.0), "half": (0.5, 0.5)}  # z is encoded z times the first + the second

Encoding = DepthEncoding | FlowEncoding | AmodalEncoding | NormalsEncoding


def _require_companding(companding: float) -> None:
    possible = companding == 0 or companding >= SMALLEST_COMPANDING
    require(possible, "companding", f"must be 0 or at least {SMALLEST_COMPANDING}")


def _to_unit_range(y: Float32[np.ndarray, "*b"]) -> Float32[np.ndarray, "*b"]:
    return np.clip((y + 1) / 2, 0, 1)
