"""From the engine's encoded fields to an answer in the task's units, at the size of the upload.

The order is the same for every task: decode each member at the model's resolution, reduce the
members, then resize what was asked for. The kind of encoding decides how.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from service.api.images import Upload
from service.api.resample import resize_maps, resize_plainly
from service.core.directions import normalized, reduce_directions
from service.core.encodings import (
    AmodalEncoding,
    DepthEncoding,
    Encoding,
    FlowEncoding,
    NormalsEncoding,
)
from service.core.ensemble import Reduced, Reduction, reduce_members
from service.core.sizes import Fit
from service.core.tasks import NORMALS

_SMALLEST_RANGE = 1e-6  # of a depth map: a flat one is all near rather than amplified rounding
_OBJECT = 0.5  # coverage from which a pixel belongs to the whole object

Fields = Mapping[str, Float32[np.ndarray, "members model_h model_w"]]


@dataclass(frozen=True)
class Scene:
    """What the request fixes about its answer.

    `uploads` are the task's images in order, all of `width` x `height`. Maps of uncertainty and of
    single members are made only where they are wanted. `fit` says where the picture lies in the
    model's maps, None where it fills them.
    """

    uploads: tuple[Upload, ...]
    width: int
    height: int
    reduction: Reduction
    uncertainty: bool
    all_members: bool
    fit: Fit | None = None

    def crop(self, maps: Float32[np.ndarray, "n map_h map_w"]) -> np.ndarray:
        """Cut the padding off."""
        if self.fit is None:
            return maps
        height, width = (
            round(side * content / whole)
            for side, content, whole in zip(
                maps.shape[-2:], self.fit.content, self.fit.padded, strict=True
            )
        )
        return maps[..., :height, :width]

    def resize(self, maps: Float32[np.ndarray, "*batch map_h map_w"]) -> np.ndarray:
        """Resize maps without padding to the upload's size."""
        resized = resize_maps if self.fit is None else resize_plainly
        return resized(maps, self.height, self.width)


@dataclass(frozen=True)
class DepthAnswer:
    """Relative depth: 0 nearest, 1 farthest; `uncertainty` in the same unit.

    Each of `members` is a prediction in its own right, 0 its nearest and 1 its farthest.
    """

    prediction: Float32[np.ndarray, "h w"]
    uncertainty: Float32[np.ndarray, "h w"] | None
    members: Float32[np.ndarray, "n h w"] | None


@dataclass(frozen=True)
class FlowAnswer:
    """Motion (u right, v down) in pixels of the upload; `uncertainty` likewise, per axis."""

    prediction: Float32[np.ndarray, "2 h w"]
    uncertainty: Float32[np.ndarray, "2 h w"] | None
    members: Float32[np.ndarray, "n 2 h w"] | None


@dataclass(frozen=True)
class AmodalAnswer:
    """Coverage of the whole object in [0, 1], 1 wherever `visible`; `uncertainty` is 0 there.

    `appearance` is the predicted picture of the whole object, RGB in [0, 1] at the model's
    resolution, None where it was not computed.
    """

    prediction: Float32[np.ndarray, "h w"]
    uncertainty: Float32[np.ndarray, "h w"] | None
    members: Float32[np.ndarray, "n h w"] | None
    visible: Bool[np.ndarray, "h w"]
    appearance: Float32[np.ndarray, "3 model_h model_w"] | None
    picture: Upload

    @property
    def whole(self) -> Bool[np.ndarray, "h w"]:
        """The mask of the whole object."""
        return self.prediction > _OBJECT

    def completed(self) -> UInt8[np.ndarray, "h w 4"] | None:
        """Return the whole object as RGBA, None without an appearance.

        The upload's own pixels where it was visible, predicted ones on the rest of the object,
        transparent white elsewhere.
        """
        if self.appearance is None:
            return None
        whole = self.whole
        rgba = np.full((*whole.shape, 4), 255, dtype=np.uint8)
        rgba[..., 3] = np.where(whole, np.uint8(255), np.uint8(0))
        for channel, plane in enumerate(self.appearance):
            rgba[whole, channel] = np.round(resize_maps(plane, *whole.shape)[whole] * 255)
        rgba[self.visible, :3] = self.picture.rgb()[self.visible]
        return rgba


@dataclass(frozen=True)
class NormalsAnswer:
    """Unit vectors, x right, y up, z to the viewer; `uncertainty` in half turns, one per pixel."""

    prediction: Float32[np.ndarray, "3 h w"]
    uncertainty: Float32[np.ndarray, "h w"] | None
    members: Float32[np.ndarray, "n 3 h w"] | None


Answer = DepthAnswer | FlowAnswer | AmodalAnswer | NormalsAnswer


def make_answer(encoding: Encoding, fields: Fields, scene: Scene) -> Answer:
    """Turn a task's encoded fields into its answer for a scene."""
    fields = {name: scene.crop(maps) for name, maps in fields.items()}
    return MAKERS[type(encoding)](encoding, fields, scene)


def _depth_answer(encoding: DepthEncoding, fields: Fields, scene: Scene) -> DepthAnswer:
    # Members are aligned in the quantity that was predicted, as the model's own pipeline does it:
    # the few iterations that the method allows end elsewhere for values turned around.
    maps = _reduce_and_resize(encoding.turn(encoding.decode(fields["depth"])), scene)
    prediction, span = _stretch(encoding.turn(maps.prediction))
    each = maps.members
    return DepthAnswer(
        prediction,
        None if maps.uncertainty is None else maps.uncertainty / span,
        None if each is None else np.stack([_stretch(encoding.turn(member))[0] for member in each]),
    )


def _flow_answer(encoding: FlowEncoding, fields: Fields, scene: Scene) -> FlowAnswer:
    axes = encoding.decode(fields["u"], fields["v"], scene.width, scene.height)
    maps = _reduce_and_resize(np.stack(axes, axis=1).astype(np.float32), scene)
    return FlowAnswer(maps.prediction, maps.uncertainty, maps.members)


def _amodal_answer(encoding: AmodalEncoding, fields: Fields, scene: Scene) -> AmodalAnswer:
    picture, mask = scene.uploads
    appearance = None
    if {"red", "green", "blue"} <= fields.keys():
        appearance = np.stack([fields[channel] for channel in ("red", "green", "blue")], axis=1)
    if "mask" in fields:
        members = encoding.decode_mask(fields["mask"])
    else:
        assert appearance is not None, "the task table asks for a mask or an appearance"
        members = encoding.mask_from_appearance(appearance)
    maps = _reduce_and_resize(members, scene)
    visible = mask.mask()
    if maps.uncertainty is not None:
        maps.uncertainty[visible] = 0
    return AmodalAnswer(
        np.maximum(maps.prediction, visible),
        maps.uncertainty,
        None if maps.members is None else np.maximum(maps.members, visible),
        visible,
        None
        if appearance is None
        else reduce_members(encoding.decode_appearance(appearance), scene.reduction).prediction,
        picture,
    )


def _normals_answer(encoding: NormalsEncoding, fields: Fields, scene: Scene) -> NormalsAnswer:
    members = encoding.decode(np.stack([fields[axis] for axis in NORMALS], axis=1))
    maps = _reduce_and_resize(members, scene, reduce_directions)
    # What lies between unit vectors is shorter than they are.
    return NormalsAnswer(
        normalized(maps.prediction),
        maps.uncertainty,
        None if maps.members is None else normalized(maps.members),
    )


# By kind of encoding, which is what a maker takes.
MAKERS: Mapping[type[Encoding], Callable[..., Answer]] = {
    DepthEncoding: _depth_answer,
    FlowEncoding: _flow_answer,
    AmodalEncoding: _amodal_answer,
    NormalsEncoding: _normals_answer,
}


@dataclass(frozen=True)
class _Maps:
    prediction: Float32[np.ndarray, "*field h w"]
    uncertainty: Float32[np.ndarray, "*spread h w"] | None
    members: Float32[np.ndarray, "n *field h w"] | None


def _reduce_and_resize(
    members: Float32[np.ndarray, "n *field model_h model_w"],
    scene: Scene,
    reduce: Callable[[np.ndarray, Reduction], Reduced] = reduce_members,
) -> _Maps:
    reduced = reduce(members, scene.reduction)
    return _Maps(
        scene.resize(reduced.prediction),
        scene.resize(reduced.uncertainty) if scene.uncertainty else None,
        scene.resize(members) if scene.all_members else None,
    )


def _stretch(depth: Float32[np.ndarray, "h w"]) -> tuple[Float32[np.ndarray, "h w"], float]:
    """Stretch a map to [0, 1]; return it with the span it had, 1 for a flat one, which is all 0."""
    low, high = float(depth.min()), float(depth.max())
    span = high - low if high - low > _SMALLEST_RANGE else 1.0
    stretched = depth - np.float32(low)
    stretched /= np.float32(span)
    return np.clip(stretched, 0, 1, out=stretched), span
