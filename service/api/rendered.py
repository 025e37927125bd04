"""What a rendered answer is, and the writers that renderers of every task share."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from service.api import formats
from service.api.schemas import AnswerData, ImageData, RunData, UncertaintyData

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


def media_type(output: str) -> str:
    """Return the content type of an output form."""
    return {"npz": NPZ, "json": JSON, "flo": FLO}.get(output, PNG)


def png_file(content: bytes) -> Rendered:
    """Send a PNG."""
    return Rendered(content, PNG, "png")


def json_file(data: AnswerData) -> Rendered:
    """Write a task's JSON answer."""
    return Rendered(data.model_dump_json().encode(), JSON, "json")


def npz_file(ran: Ran, **maps: np.ndarray | None) -> Rendered:
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


def image_data(content: bytes, scale: float, offset: float = 0.0) -> ImageData:
    """Wrap a PNG whose samples times `scale` plus `offset` are a map's values."""
    return ImageData(data=b64encode(content).decode("ascii"), scale=scale, offset=offset)


def uncertainty_data(spread: Float32[np.ndarray, "*axis h w"] | None) -> UncertaintyData | None:
    """Write a spread's planes as 16-bit grey, each stretched to the largest value of all."""
    if spread is None:
        return None
    white = float(spread.max()) or 1.0
    planes = spread.reshape(-1, *spread.shape[-2:])
    maps = [image_data(formats.png16(plane, white), white / formats.WHITE_16) for plane in planes]
    return UncertaintyData(mean=float(spread.mean()), maps=maps)


def channels_last(maps: Float32[np.ndarray, "*n axis h w"] | None) -> np.ndarray | None:
    """(..., axis, h, w) to (..., h, w, axis), the layout of every library of flow or normals."""
    return None if maps is None else np.moveaxis(maps, -3, -1)
