"""Families of public checkpoints, one row each: served, or told what they are good for."""

from __future__ import annotations

from collections.abc import Mapping

from training.converters.dit import refuse_dense_dit, refuse_dit
from training.converters.generalist import convert_generalist
from training.converters.lotus import convert_lotus
from training.converters.marigold import convert_marigold
from training.converters.record import Converter

CONVERTERS: Mapping[str, Converter] = {
    "marigold": convert_marigold,
    "lotus": convert_lotus,
    "scaling-perception": convert_generalist,
    "dit": refuse_dense_dit,
    "dit-moe": refuse_dit,
}
