"""Error measures of the three tasks, on numpy arrays of one picture, with the field's protocols.

Depth is scored after a least-squares fit of scale and shift on the valid pixels, since a prediction
is affine-invariant; flow in pixels; amodal completion by intersection over union.
"""

from training.data.sample import Array, Mask
from training.metrics.amodal import AmodalScore, convex_hull, iou, mean_amodal, score_amodal
from training.metrics.depth import DepthScore, gradient_baseline, mean_depth, score_depth
from training.metrics.flow import FlowScore, mean_flow, score_flow

__all__ = [
    "AmodalScore",
    "Array",
    "DepthScore",
    "FlowScore",
    "Mask",
    "convex_hull",
    "gradient_baseline",
    "iou",
    "mean_amodal",
    "mean_depth",
    "mean_flow",
    "score_amodal",
    "score_depth",
    "score_flow",
]
