"""Which families of public checkpoints can be served: one row each."""

from __future__ import annotations

from collections.abc import Mapping

from training.converters.lotus import convert_lotus
from training.converters.marigold import convert_marigold
from training.converters.record import Converter

CONVERTERS: Mapping[str, Converter] = {
    "marigold": convert_marigold,
    "lotus": convert_lotus,
}
