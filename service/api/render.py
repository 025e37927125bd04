"""An answer in the form that was asked for: one table of renderers per kind of answer."""

from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import assert_never

import numpy as np
from jaxtyping import Bool, Float32

from service.api import colors, formats
from service.api.answers import AmodalAnswer, Answer, DepthAnswer, FlowAnswer
from service.api.schemas import (
    AmodalData,
    AnswerData,
    DepthData,
    FlowData,
    ImageData,
    RunData,
    UncertaintyData,
)

PNG = "image/png"
NPZ = "application/x-npz"
FLO = "application/octet-stream"
JSON = "application/json"


@dataclass(frozen=True)
class Rendered:
    """A file to send; `headers` say what its pixels do not."""

    content: bytes
    media_type: str
    extension: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ran:
    """How the answer came about, for those forms that say so; `timings` in ms up to rendering."""

    data: RunData
    timings: Mapping[str, float]


def render(answer: Answer, output: str, ran: Ran) -> Rendered:
    """Write an answer as `output`, which is one of its task's."""
    match answer:
        case DepthAnswer():
            return _DEPTH[output](answer, ran)
        case FlowAnswer():
            return _FLOW[output](answer, ran)
        case AmodalAnswer():
            return _AMODAL[output](answer, ran)
        case _:
            assert_never(answer)


def media_type(output: str) -> str:
    """Return the content type of an output form."""
    return {"npz": NPZ, "json": JSON, "flo": FLO}.get(output, PNG)


def _depth_color(answer: DepthAnswer, _: Ran) -> Rendered:
    return _png(formats.png_palette(answer.prediction, colors.near_warm_table()))


def _depth_png16(answer: DepthAnswer, _: Ran) -> Rendered:
    return _png(formats.png16(answer.prediction, 1.0))


def _depth_npz(answer: DepthAnswer, ran: Ran) -> Rendered:
    return _npz(
        ran,
        prediction=answer.prediction,
        uncertainty=answer.uncertainty,
        members=answer.members,
    )


def _depth_json(answer: DepthAnswer, ran: Ran) -> Rendered:
    image = _image_data(formats.png16(answer.prediction, 1.0), 1 / formats.WHITE_16)
    data = DepthData(
        run=ran.data,
        timings=ran.timings,
        prediction=image,
        uncertainty=_uncertainty_data(answer.uncertainty),
    )
    return _json(data)


def _flow_color(answer: FlowAnswer, _: Ran) -> Rendered:
    scale_px = colors.flow_scale_px(answer.prediction)
    pixels = colors.color_flow(answer.prediction, scale_px)
    headers = {"X-Percept-Flow-Scale": f"{scale_px:.6g}"}
    return Rendered(formats.png(pixels), PNG, "png", headers)


def _flow_flo(answer: FlowAnswer, _: Ran) -> Rendered:
    return Rendered(formats.flo(answer.prediction), FLO, "flo")


def _flow_kitti(answer: FlowAnswer, _: Ran) -> Rendered:
    return _png(formats.kitti(answer.prediction))


def _flow_npz(answer: FlowAnswer, ran: Ran) -> Rendered:
    return _npz(
        ran,
        prediction=_channels_last(answer.prediction),
        uncertainty=_channels_last(answer.uncertainty),
        members=_channels_last(answer.members),
    )


def _flow_json(answer: FlowAnswer, ran: Ran) -> Rendered:
    length = np.hypot(*answer.prediction)
    image = _image_data(
        formats.kitti(answer.prediction),
        1 / formats.KITTI_UNITS_PER_PX,
        -formats.KITTI_ZERO / formats.KITTI_UNITS_PER_PX,
    )
    data = FlowData(
        run=ran.data,
        timings=ran.timings,
        prediction=image,
        uncertainty=_uncertainty_data(answer.uncertainty),
        mean_length_px=float(length.mean()),
        max_length_px=float(length.max()),
    )
    return _json(data)


def _amodal_mask(answer: AmodalAnswer, _: Ran) -> Rendered:
    return _png(formats.png_mask(answer.whole))


def _amodal_overlay(answer: AmodalAnswer, _: Ran) -> Rendered:
    pixels = colors.overlay_object(answer.picture.rgb(), answer.whole, answer.visible)
    return _png(formats.png(pixels))


def _amodal_rgb(answer: AmodalAnswer, _: Ran) -> Rendered:
    rgba = answer.completed()
    assert rgba is not None, "the task table asks for an appearance where rgb is wanted"
    return _png(formats.png(rgba))


def _amodal_npz(answer: AmodalAnswer, ran: Ran) -> Rendered:
    return _npz(
        ran,
        prediction=answer.prediction,
        mask=answer.whole,
        rgb=answer.completed(),
        uncertainty=answer.uncertainty,
        members=answer.members,
    )


def _amodal_json(answer: AmodalAnswer, ran: Ran) -> Rendered:
    whole, visible = answer.whole, answer.visible
    num_whole, num_visible = int(whole.sum()), int(visible.sum())
    data = AmodalData(
        run=ran.data,
        timings=ran.timings,
        prediction=_image_data(formats.png_mask(whole), 1 / formats.WHITE_8),
        uncertainty=_uncertainty_data(answer.uncertainty),
        visible_pixels=num_visible,
        whole_pixels=num_whole,
        hidden_fraction=1 - num_visible / num_whole,
        box=_box(whole),
    )
    return _json(data)


_DEPTH: Mapping[str, Callable[[DepthAnswer, Ran], Rendered]] = {
    "color": _depth_color,
    "png16": _depth_png16,
    "npz": _depth_npz,
    "json": _depth_json,
}
_FLOW: Mapping[str, Callable[[FlowAnswer, Ran], Rendered]] = {
    "color": _flow_color,
    "flo": _flow_flo,
    "kitti": _flow_kitti,
    "npz": _flow_npz,
    "json": _flow_json,
}
_AMODAL: Mapping[str, Callable[[AmodalAnswer, Ran], Rendered]] = {
    "mask": _amodal_mask,
    "overlay": _amodal_overlay,
    "rgb": _amodal_rgb,
    "npz": _amodal_npz,
    "json": _amodal_json,
}

_png = partial(Rendered, media_type=PNG, extension="png")


def _json(data: AnswerData) -> Rendered:
    return Rendered(data.model_dump_json().encode(), JSON, "json")


def _npz(ran: Ran, **maps: np.ndarray | None) -> Rendered:
    """Write the maps that there are, and the run's numbers as scalars."""
    run = ran.data
    arrays = {
        **maps,
        "task": np.array(run.task),
        "model": np.array(run.model),
        "steps": np.array(run.steps),
        "ensemble": np.array(run.ensemble),
        "evaluations": np.array(run.evaluations),
        "expected_error": None if run.expected_error is None else np.array(run.expected_error),
        "seed": np.array(run.seed, dtype=np.uint64),
        "reduction": np.array(run.reduction),
    }
    content = formats.npz({name: array for name, array in arrays.items() if array is not None})
    return Rendered(content, NPZ, "npz")


def _image_data(content: bytes, scale: float, offset: float = 0.0) -> ImageData:
    return ImageData(data=b64encode(content).decode("ascii"), scale=scale, offset=offset)


def _uncertainty_data(spread: Float32[np.ndarray, "*axis h w"] | None) -> UncertaintyData | None:
    if spread is None:
        return None
    white = float(spread.max()) or 1.0
    planes = spread.reshape(-1, *spread.shape[-2:])
    maps = [_image_data(formats.png16(plane, white), white / formats.WHITE_16) for plane in planes]
    return UncertaintyData(mean=float(spread.mean()), maps=maps)


def _channels_last(maps: Float32[np.ndarray, "*n 2 h w"] | None) -> np.ndarray | None:
    """(..., 2, h, w) to (..., h, w, 2), the layout of .flo and of every flow library."""
    return None if maps is None else np.moveaxis(maps, -3, -1)


def _box(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
