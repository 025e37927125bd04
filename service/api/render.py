"""An answer in the form that was asked for: one table of renderers per kind of answer."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool

from service.api import colors, formats
from service.api.answers import AmodalAnswer, Answer, DepthAnswer, FlowAnswer, NormalsAnswer
from service.api.rendered import (
    FLO,
    PNG,
    Ran,
    Rendered,
    channels_last,
    image_data,
    json_file,
    npz_file,
    png_file,
    uncertainty_data,
)
from service.api.schemas import AmodalData, DepthData, FlowData, NormalsData


def render(answer: Answer, output: str, ran: Ran) -> Rendered:
    """Write an answer as `output`, which is one of its task's."""
    return RENDERERS[type(answer)][output](answer, ran)


def _depth_color(answer: DepthAnswer, _: Ran) -> Rendered:
    return png_file(formats.png_palette(answer.prediction, colors.near_warm_table()))


def _depth_png16(answer: DepthAnswer, _: Ran) -> Rendered:
    return png_file(formats.png16(answer.prediction, 1.0))


def _depth_npz(answer: DepthAnswer, ran: Ran) -> Rendered:
    return npz_file(
        ran,
        prediction=answer.prediction,
        uncertainty=answer.uncertainty,
        members=answer.members,
    )


def _depth_json(answer: DepthAnswer, ran: Ran) -> Rendered:
    image = image_data(formats.png16(answer.prediction, 1.0), 1 / formats.WHITE_16)
    data = DepthData(
        run=ran.data,
        timings=ran.timings,
        prediction=image,
        uncertainty=uncertainty_data(answer.uncertainty),
    )
    return json_file(data)


def _flow_color(answer: FlowAnswer, _: Ran) -> Rendered:
    scale_px = colors.flow_scale_px(answer.prediction)
    pixels = colors.color_flow(answer.prediction, scale_px)
    headers = {"X-Percept-Flow-Scale": f"{scale_px:.6g}"}
    return Rendered(formats.png(pixels), PNG, "png", headers)


def _flow_flo(answer: FlowAnswer, _: Ran) -> Rendered:
    return Rendered(formats.flo(answer.prediction), FLO, "flo")


def _flow_kitti(answer: FlowAnswer, _: Ran) -> Rendered:
    return png_file(formats.kitti(answer.prediction))


def _flow_npz(answer: FlowAnswer, ran: Ran) -> Rendered:
    return npz_file(
        ran,
        prediction=channels_last(answer.prediction),
        uncertainty=channels_last(answer.uncertainty),
        members=channels_last(answer.members),
    )


def _flow_json(answer: FlowAnswer, ran: Ran) -> Rendered:
    length = np.hypot(*answer.prediction)
    image = image_data(
        formats.kitti(answer.prediction),
        1 / formats.KITTI_UNITS_PER_PX,
        -formats.KITTI_ZERO / formats.KITTI_UNITS_PER_PX,
    )
    data = FlowData(
        run=ran.data,
        timings=ran.timings,
        prediction=image,
        uncertainty=uncertainty_data(answer.uncertainty),
        mean_length_px=float(length.mean()),
        max_length_px=float(length.max()),
    )
    return json_file(data)


def _amodal_mask(answer: AmodalAnswer, _: Ran) -> Rendered:
    return png_file(formats.png_mask(answer.whole))


def _amodal_overlay(answer: AmodalAnswer, _: Ran) -> Rendered:
    pixels = colors.overlay_object(answer.picture.rgb(), answer.whole, answer.visible)
    return png_file(formats.png(pixels))


def _amodal_rgb(answer: AmodalAnswer, _: Ran) -> Rendered:
    rgba = answer.completed()
    assert rgba is not None, "the task table asks for an appearance where rgb is wanted"
    return png_file(formats.png(rgba))


def _amodal_npz(answer: AmodalAnswer, ran: Ran) -> Rendered:
    return npz_file(
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
        prediction=image_data(formats.png_mask(whole), 1 / formats.WHITE_8),
        uncertainty=uncertainty_data(answer.uncertainty),
        visible_pixels=num_visible,
        whole_pixels=num_whole,
        hidden_fraction=1 - num_visible / num_whole,
        box=_box(whole),
    )
    return json_file(data)


def _normals_color(answer: NormalsAnswer, _: Ran) -> Rendered:
    return png_file(formats.png(colors.color_normals(answer.prediction)))


def _normals_png16(answer: NormalsAnswer, _: Ran) -> Rendered:
    return png_file(formats.normals(answer.prediction))


def _normals_npz(answer: NormalsAnswer, ran: Ran) -> Rendered:
    return npz_file(
        ran,
        prediction=channels_last(answer.prediction),
        uncertainty=answer.uncertainty,
        members=channels_last(answer.members),
    )


def _normals_json(answer: NormalsAnswer, ran: Ran) -> Rendered:
    image = image_data(formats.normals(answer.prediction), 2 / formats.WHITE_16, -1.0)
    data = NormalsData(
        run=ran.data,
        timings=ran.timings,
        prediction=image,
        uncertainty=uncertainty_data(answer.uncertainty),
    )
    return json_file(data)


def _box(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


# By kind of answer and form. What a renderer takes is the kind that it stands under.
RENDERERS: Mapping[type[Answer], Mapping[str, Callable[..., Rendered]]] = {
    DepthAnswer: {
        "color": _depth_color,
        "png16": _depth_png16,
        "npz": _depth_npz,
        "json": _depth_json,
    },
    FlowAnswer: {
        "color": _flow_color,
        "flo": _flow_flo,
        "kitti": _flow_kitti,
        "npz": _flow_npz,
        "json": _flow_json,
    },
    AmodalAnswer: {
        "mask": _amodal_mask,
        "overlay": _amodal_overlay,
        "rgb": _amodal_rgb,
        "npz": _amodal_npz,
        "json": _amodal_json,
    },
    NormalsAnswer: {
        "color": _normals_color,
        "png16": _normals_png16,
        "npz": _normals_npz,
        "json": _normals_json,
    },
}
