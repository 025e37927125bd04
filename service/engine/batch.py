"""Turns chosen rows into the arrays of one model call: pure numpy, no state of its own.

Rows are concatenated along their first axis and then viewed as a batch, which costs one copy and no
array per row.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from service.core.ddim import ddim_step
from service.engine.groups import STAGES, Group, Stage
from service.engine.request import PredictionRequest, Trajectory

Rows = Sequence[Trajectory]


def groups(request: PredictionRequest) -> dict[Stage, Group]:
    """Return what each stage's calls of a request may be shared with."""
    return {
        stage: Group(stage, request.model, *network)
        for stage, network in zip(STAGES, request.networks, strict=True)
    }


def encoder_inputs(rows: Rows) -> dict[str, np.ndarray]:
    """Pictures (B, 3, H, W) of the rows' requests, prompts and labels if the encoder has them."""
    requests = [row.run.request for row in rows]
    encoder = requests[0].encoder
    inputs = {"image": np.stack([request.image for request in requests])}
    if encoder.prompt:
        inputs["prompt"] = np.stack([_prompt(request) for request in requests])
    if encoder.label:
        labels = [request.task.encoder_label for request in requests]
        inputs["task"] = np.array(labels, dtype=np.int64)
    return inputs


def _prompt(request: PredictionRequest) -> np.ndarray:
    if request.prompt is not None:
        return request.prompt
    return np.full_like(request.image, request.task.prompt_value)


def denoiser_inputs(rows: Rows) -> dict[str, np.ndarray]:
    """x_t (B, C, h, w), condition (B, K, h, w), and a timestep and label (B,) for every row."""
    artifact = rows[0].run.request.artifact
    timesteps = [row.run.sampling.timesteps[row.step] for row in rows]
    inputs = {
        "noisy": _as_batch([row.x_t for row in rows]),
        "condition": _as_batch([row.run.condition for row in rows]),
        "timestep": np.array(timesteps, dtype=artifact.timestep_dtype),
    }
    if artifact.has_labels:
        inputs["task"] = np.array([row.label for row in rows], dtype=np.int64)
    return inputs


def decoder_inputs(rows: Rows) -> dict[str, np.ndarray]:
    """Latents (B, C, h, w) in the decoder's own scale: x_0 / scale."""
    scale = np.float32(rows[0].run.request.artifact.latent.scale)
    return {"latent": _as_batch([row.x_t for row in rows]) / scale}


INPUTS: Mapping[Stage, Callable[[Rows], dict[str, np.ndarray]]] = {
    "encode": encoder_inputs,
    "denoise": denoiser_inputs,
    "decode": decoder_inputs,
}


def fits_output(stage: Stage, rows: Rows, output: np.ndarray) -> bool:
    """Whether a model gave what the stage needs: float32 rows of the right number and shape."""
    request = rows[0].run.request
    artifact = request.artifact
    channels = {
        "encode": artifact.condition_channels,
        "denoise": artifact.latent.channels,
        "decode": 3,
    }[stage]
    if output.dtype != np.float32 or output.ndim != 4 or output.shape[:2] != (len(rows), channels):
        return False
    if stage != "decode":
        return output.shape[2:] == request.latent_shape[1:]
    mates = (mate for row in rows for mate in row.run.trajectories)
    return all(mate.image is None or mate.image.shape == output.shape[1:] for mate in mates)


def take_step(rows: Rows, x_t: np.ndarray, prediction: np.ndarray) -> None:
    """Move every row one step of its sampler: its `x_t` and `step` change. (B, C, h, w) each."""
    a = np.array([row.run.sampling.a[row.step] for row in rows], dtype=np.float32)
    b = np.array([row.run.sampling.b[row.step] for row in rows], dtype=np.float32)
    for row, x_prev in zip(rows, ddim_step(x_t, prediction, a, b), strict=True):
        row.x_t = x_prev
        if noise := row.run.sampling.c[row.step]:
            row.x_t = x_prev + np.float32(noise) * row.fresh_noise()
        row.step += 1


def finite_rows(output: np.ndarray) -> np.ndarray | None:
    """Which rows of (B, ...) hold finite numbers only, or None when all do."""
    finite = np.isfinite(output)
    return None if finite.all() else finite.reshape(len(output), -1).all(axis=1)


def _as_batch(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays).reshape(-1, *arrays[0].shape)
