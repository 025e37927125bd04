"""How large the pictures of a model are, and its latents: fixed, or following the upload.

Sizes are (height, width) in pixels or latent cells.
"""

from dataclasses import dataclass
from typing import Literal

from service.core.record import require

Size = tuple[int, int]


@dataclass(frozen=True)
class Fit:
    """A picture inside a model's input: its own size, and that of the input with the padding.

    The padding is at the right and at the bottom and repeats the last pixels.
    """

    content: Size
    padded: Size


@dataclass(frozen=True)
class FixedSize:
    """Every picture is stretched to one size, whatever its shape."""

    height: int
    width: int
    kind: Literal["fixed"] = "fixed"

    def __post_init__(self) -> None:
        _require_positive(self, "height", "width")

    def fit(self, size: Size) -> Fit:
        """Where a picture of `size` lies in the input."""
        del size
        return Fit(self.example, self.example)

    def takes(self, size: Size) -> bool:
        """Whether an input may have this size."""
        return size == self.example

    @property
    def example(self) -> Size:
        """A size that inputs have."""
        return (self.height, self.width)


@dataclass(frozen=True)
class LongestEdge:
    """The longer side becomes `edge` px, the shape is kept, and sides are padded to a multiple.

    Marigold's processing rule (arXiv 2312.02145; diffusers' `MarigoldImageProcessor`): the shorter
    side is rounded down.
    """

    edge: int
    multiple: int
    kind: Literal["longest_edge"] = "longest_edge"

    def __post_init__(self) -> None:
        _require_positive(self, "edge", "multiple")

    def fit(self, size: Size) -> Fit:
        """Where a picture of `size` lies in the input. However narrow, it keeps one pixel."""
        longest = max(size)
        height, width = (max(1, side * self.edge // longest) for side in size)
        return Fit((height, width), (self._padded(height), self._padded(width)))

    def takes(self, size: Size) -> bool:
        """Whether an input may have this size."""
        return max(size) == self._padded(self.edge) and all(
            side > 0 and side % self.multiple == 0 for side in size
        )

    @property
    def example(self) -> Size:
        """A size that inputs have: that of a photograph."""
        return self.fit((3, 4)).padded

    def _padded(self, side: int) -> int:
        return -(-side // self.multiple) * self.multiple


InputSize = FixedSize | LongestEdge


@dataclass(frozen=True)
class FixedGrid:
    """Latents of one size, whatever that of the encoder's pictures."""

    height: int
    width: int
    kind: Literal["fixed"] = "fixed"

    def __post_init__(self) -> None:
        _require_positive(self, "height", "width")

    def of(self, size: Size) -> Size:
        """The latent's size for an input of `size`."""
        del size
        return (self.height, self.width)


@dataclass(frozen=True)
class InputGrid:
    """Latents `factor` times coarser than the encoder's input."""

    factor: int
    kind: Literal["input"] = "input"

    def __post_init__(self) -> None:
        _require_positive(self, "factor")

    def of(self, size: Size) -> Size:
        """The latent's size for an input of `size`."""
        return (size[0] // self.factor, size[1] // self.factor)


LatentSize = FixedGrid | InputGrid


def _require_positive(record: object, *names: str) -> None:
    for name in names:
        require(getattr(record, name) > 0, name, "must be positive")
