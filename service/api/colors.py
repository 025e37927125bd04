"""What float maps look like: a perceptual colour map, the Middlebury colour wheel, object overlays.

Arrays are (h, w), (2, h, w) or (3, h, w) floats in; uint8 (h, w, 3) out, as image files want them.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, UInt8

# Sixth-degree fits of matplotlib's "inferno" (Smith and van der Walt, CC0) by Matt Zucker (CC0,
# shadertoy.com/view/WlfXRN): coefficients of t^0..t^6, one row per power, red, green, blue.
_INFERNO = (
    (0.0002189403691192265, 0.001651004631001012, -0.01948089843709184),
    (0.1065134194856116, 0.5639564367884091, 3.932712388889277),
    (11.60249308247187, -3.972853965665698, -15.9423941062914),
    (-41.70399613139459, 17.43639888205313, 44.35414519872813),
    (77.162935699427, -33.40235894210092, -81.80730925738993),
    (-71.31942824499214, 32.62606426397723, 73.20951985803202),
    (25.13112622477341, -12.24266895238567, -23.07032500287172),
)

# The wheel of Baker et al., "A Database and Evaluation Methodology for Optical Flow" (2007): number
# of colours of each sixth, the channel that is full, the one that changes, and which way.
_WHEEL_SIXTHS = (
    (15, 0, 1, "up"),  # red to yellow
    (6, 1, 0, "down"),  # to green
    (4, 1, 2, "up"),  # to cyan
    (11, 2, 1, "down"),  # to blue
    (13, 2, 0, "up"),  # to magenta
    (6, 0, 2, "down"),  # to red
)
_BEYOND_SCALE = 0.75  # brightness of flow longer than the scale, as in the same paper's code

_PERCENTILE = 99.0
_NUM_SAMPLES = 65_536
_SMALLEST_SCALE_PX = 1e-3  # less motion than this is shown as none rather than as noise

_VISIBLE_TINT = (46, 134, 222)
_HIDDEN_TINT = (255, 140, 0)
_TINT_WEIGHT = 0.55

_BLOCK_PIXELS = 32_768  # painted at once: what stays in a cache, however large the upload


@lru_cache(maxsize=1)
def near_warm_table() -> UInt8[np.ndarray, "256 3"]:
    """Return the depth colours: entry 0 (nearest) is light yellow, 255 (farthest) nearly black.

    Lightness falls steadily along the table, so equal depth steps look alike, in grey as well.
    """
    t = np.linspace(1, 0, 256)[:, None] ** np.arange(7)
    rgb = np.clip(t @ np.array(_INFERNO), 0, 1)
    table = np.round(rgb * 255).astype(np.uint8)
    table.setflags(write=False)
    return table


@lru_cache(maxsize=1)
def flow_wheel() -> Float32[np.ndarray, "55 3"]:
    """Return the wheel's colours in [0, 1], from red counted against the image's x axis."""
    sixths = []
    for length, full, changing, way in _WHEEL_SIXTHS:
        ramp = np.floor(255 * np.arange(length, dtype=np.float32) / length) / 255
        sixth = np.zeros((length, 3), dtype=np.float32)
        sixth[:, full] = 1
        sixth[:, changing] = ramp if way == "up" else 1 - ramp
        sixths.append(sixth)
    wheel = np.concatenate(sixths)
    wheel.setflags(write=False)
    return wheel


def flow_scale_px(flow: Float32[np.ndarray, "2 h w"]) -> float:
    """Return the length drawn in full colour: the 99th percentile over a sample of pixels."""
    stride = max(1, int(np.sqrt(flow[0].size / _NUM_SAMPLES)))
    sample = flow[:, ::stride, ::stride]
    return max(
        float(np.percentile(np.hypot(sample[0], sample[1]), _PERCENTILE)), _SMALLEST_SCALE_PX
    )


def color_flow(flow: Float32[np.ndarray, "2 h w"], scale_px: float) -> UInt8[np.ndarray, "h w 3"]:
    """Paint flow by the Middlebury wheel: hue is direction, white is no motion.

    Lengths are over `scale_px`; what is longer is darkened.
    """
    _, height, width = flow.shape
    painted = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, _BLOCK_PIXELS // width)
    for top in range(0, height, rows):
        block = flow[:, top : top + rows] / np.float32(scale_px)
        painted[top : top + rows] = _wheel_colors(block)
    return painted


def _wheel_colors(unit_flow: Float32[np.ndarray, "2 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    u, v = unit_flow
    radius = np.hypot(u, v)[..., None]
    wheel = flow_wheel()
    position = (np.arctan2(-v, -u) / np.float32(np.pi) + 1) / 2 * (len(wheel) - 1)
    below = np.floor(position).astype(np.intp)
    fraction = (position - below)[..., None]
    hue = (1 - fraction) * wheel[below] + fraction * wheel[(below + 1) % len(wheel)]
    color = np.where(radius <= 1, 1 - radius * (1 - hue), hue * np.float32(_BEYOND_SCALE))
    return np.floor(255 * color).astype(np.uint8)


def color_normals(normals: Float32[np.ndarray, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Paint unit vectors as usual: red, green and blue are x, y and z, black at -1, full at 1.

    With x right, y up and z to the viewer, what faces the viewer is light blue, what faces right
    pink and what faces up green.
    """
    _, height, width = normals.shape
    painted = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, _BLOCK_PIXELS // width)
    for top in range(0, height, rows):
        block = (normals[:, top : top + rows] + 1) * np.float32(127.5)
        painted[top : top + rows] = np.rint(block, out=block).transpose(1, 2, 0)
    return painted


def overlay_object(
    rgb: UInt8[np.ndarray, "h w 3"],
    whole: Bool[np.ndarray, "h w"],
    visible: Bool[np.ndarray, "h w"],
) -> UInt8[np.ndarray, "h w 3"]:
    """Tint an object on its picture: blue where it was visible, orange where it is completed."""
    painted = rgb.copy()
    levels = (1 - _TINT_WEIGHT) * np.arange(256)
    for region, tint in ((visible, _VISIBLE_TINT), (whole & ~visible, _HIDDEN_TINT)):
        for channel, strength in enumerate(tint):
            table = np.round(levels + _TINT_WEIGHT * strength).astype(np.uint8)
            painted[region, channel] = table[rgb[region, channel]]
    return painted
