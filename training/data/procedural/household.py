"""Compound objects made of quadrics, as tables of parts: household things, people, plants, posts.

A part is that of a box object, then (k, l) of the profile, see geometry.quadric_span, and, where it
is not upright, its tilt and heading in degrees.
"""

from __future__ import annotations

import math

from training.data.procedural.furniture import Kind, Part

_BALL, _CYLINDER, _CONE, _TAPER = (1.0, 0.0), (0.0, 0.0), (-0.81, 0.9), (-0.04, 0.2)
_FLARE = (-0.04, -0.2)


def _leaf(heading: float, tilt: float, reach: float, wide: float) -> Part:
    """A flat ellipsoid that grows out of the middle at height 0.25."""
    sine, cosine = math.sin(math.radians(tilt)), math.cos(math.radians(tilt))
    x, y = (
        math.sin(math.radians(heading)) * sine * reach,
        -math.cos(math.radians(heading)) * sine * reach,
    )
    middle = 0.25 + cosine * reach * 0.4
    return (
        x,
        y,
        middle - reach * 0.4,
        wide,
        wide * 0.25,
        middle + reach * 0.4,
        *_BALL,
        tilt,
        heading,
    )


QUADRIC_KINDS: dict[str, Kind] = {
    "bottle": Kind(
        (
            (0, 0, 0, 1, 1, 0.6, *_CYLINDER),
            (0, 0, 0.6, 0.8, 0.8, 0.8, -0.25, 0.5),
            (0, 0, 0.75, 0.4, 0.4, 0.92, *_CYLINDER),
            (0, 0, 0.9, 0.48, 0.48, 1, *_CYLINDER),
            (0, 0, 0.15, 1.02, 1.02, 0.5, *_CYLINDER),
        ),
        (0.025, 0.055),
        (0.025, 0.055),
        (0.16, 0.36),
    ),
    "can": Kind(
        ((0, 0, 0.02, 1, 1, 0.98, *_CYLINDER), (0, 0, 0, 0.9, 0.9, 1, *_CYLINDER)),
        (0.03, 0.09),
        (0.03, 0.09),
        (0.06, 0.2),
    ),
    "mug": Kind(
        (
            (0, 0, 0, 1, 1, 1, *_FLARE),
            (0, 0, 0.9, 0.8, 0.8, 1.005, *_CYLINDER),
            (1.25, 0, 0.25, 0.4, 0.15, 0.8, *_BALL),
            (0, 0, 0, 1.5, 1.5, 0.06, *_FLARE),
        ),
        (0.03, 0.06),
        (0.03, 0.06),
        (0.06, 0.12),
    ),
    "ball": Kind(((0, 0, 0, 1, 1, 1, *_BALL),), (0.03, 0.14), (0.03, 0.14), (0.06, 0.28)),
    "fruit": Kind(
        (
            (-0.6, 0, 0, 0.5, 0.5, 0.7, *_BALL),
            (0.5, 0.3, 0, 0.5, 0.5, 0.7, *_BALL),
            (0.1, -0.6, 0, 0.5, 0.5, 0.7, *_BALL),
            (0, 0.1, 0.4, 0.5, 0.5, 1, *_BALL),
            (0, 0, 0, 1.1, 1.1, 0.25, *_FLARE),
        ),
        (0.06, 0.16),
        (0.06, 0.16),
        (0.08, 0.2),
    ),
    "lamp": Kind(
        (
            (0, 0, 0, 0.6, 0.6, 0.04, *_CYLINDER),
            (0, 0, 0, 0.06, 0.06, 0.75, *_CYLINDER),
            (0, 0, 0.65, 0.85, 0.85, 1, *_TAPER),
        ),
        (0.1, 0.22),
        (0.1, 0.22),
        (0.35, 1.7),
    ),
    "roll": Kind(
        ((0, 0, 0, 1, 1, 1, *_CYLINDER, 90.0, 0.0),), (0.03, 0.1), (0.03, 0.1), (0.06, 0.3)
    ),
    "toy": Kind(
        (
            (0, 0, 0, 0.75, 0.6, 0.55, *_BALL),
            (0, 0, 0.5, 0.6, 0.55, 0.95, *_BALL),
            (-0.45, 0, 0.85, 0.22, 0.15, 1.02, *_BALL),
            (0.45, 0, 0.85, 0.22, 0.15, 1.02, *_BALL),
            (-0.7, -0.2, 0.15, 0.25, 0.25, 0.5, *_BALL, 30.0, 60.0),
            (0.7, -0.2, 0.15, 0.25, 0.25, 0.5, *_BALL, 30.0, -60.0),
        ),
        (0.07, 0.2),
        (0.07, 0.2),
        (0.15, 0.45),
    ),
    "person": Kind(
        (
            (-0.4, 0, 0, 0.35, 0.5, 0.5, *_CYLINDER),
            (0.4, 0.1, 0, 0.35, 0.5, 0.5, *_CYLINDER),
            (0, 0, 0.42, 0.9, 0.7, 0.86, *_BALL),
            (0, 0, 0.85, 0.42, 0.55, 1, *_BALL),
            (-0.95, 0, 0.42, 0.22, 0.3, 0.82, *_BALL),
            (0.95, 0, 0.42, 0.22, 0.3, 0.82, *_BALL),
        ),
        (0.2, 0.28),
        (0.14, 0.2),
        (1.5, 1.9),
    ),
    "tree": Kind(
        (
            (0, 0, 0, 0.08, 0.08, 0.6, *_TAPER),
            (0, 0, 0.45, 1, 1, 1, *_BALL),
            (-0.55, 0.3, 0.35, 0.7, 0.7, 0.75, *_BALL),
            (0.5, -0.4, 0.4, 0.7, 0.7, 0.8, *_BALL),
            (0.3, 0.6, 0.5, 0.6, 0.6, 0.9, *_BALL),
            (-0.2, -0.6, 0.4, 0.6, 0.6, 0.85, *_BALL),
        ),
        (1.0, 3.0),
        (1.0, 3.0),
        (3.0, 9.0),
        1.0,
        True,
    ),
    "post": Kind(
        (
            (0, 0, 0, 0.3, 0.3, 1, *_CYLINDER),
            (0, 0, 0, 0.6, 0.6, 0.12, *_TAPER),
            (0, -2.0, 0.93, 0.2, 0.2, 1, *_BALL),
        ),
        (0.1, 0.4),
        (0.1, 0.4),
        (2.0, 7.0),
    ),
    "cone": Kind(
        ((0, 0, 0, 1, 1, 1, *_CONE), (0, 0, 0, 1.3, 1.3, 0.05, *_CYLINDER)),
        (0.04, 0.2),
        (0.04, 0.2),
        (0.1, 0.6),
    ),
    "plant": Kind(
        (
            (0, 0, 0, 0.35, 0.35, 0.28, *_FLARE),
            _leaf(20, 25, 1.0, 0.1),
            _leaf(95, 50, 1.1, 0.1),
            _leaf(170, 35, 0.9, 0.11),
            _leaf(240, 60, 1.1, 0.1),
            _leaf(310, 45, 1.0, 0.1),
        ),
        (0.12, 0.4),
        (0.12, 0.4),
        (0.25, 0.9),
        0.3,
        True,
    ),
    "bush": Kind(
        (
            (0, 0, 0.1, 0.7, 0.7, 0.9, *_BALL),
            (0.5, 0.2, 0.2, 0.4, 0.4, 0.8, *_BALL),
            (-0.5, 0.1, 0.1, 0.45, 0.4, 0.7, *_BALL),
            (0.1, -0.5, 0.1, 0.4, 0.4, 0.75, *_BALL),
            _leaf(60, 40, 1.0, 0.12),
            _leaf(200, 50, 1.0, 0.12),
        ),
        (0.15, 0.6),
        (0.15, 0.6),
        (0.2, 0.9),
        1.0,
        True,
    ),
    "sticks": Kind(
        (
            (0, 0, 0, 0.04, 0.04, 1, *_CYLINDER, 8.0, 20.0),
            (0.3, 0, 0, 0.04, 0.04, 1, *_CYLINDER, 15.0, 140.0),
            (-0.3, 0.2, 0, 0.05, 0.05, 0.9, *_CYLINDER, 20.0, 260.0),
            (0, -0.3, 0, 0.04, 0.04, 0.95, *_CYLINDER, 35.0, 80.0),
            (0, 0, 0, 0.5, 0.5, 0.4, *_FLARE),
        ),
        (0.05, 0.2),
        (0.05, 0.2),
        (0.2, 0.8),
    ),
}
