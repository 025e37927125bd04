"""The shipped depth model without a scheduler: what a server with request-level batching runs.

Pictures are read and answers drawn by the service's own code, noise and steps are the service's
own, so that an answer equals the service's and only the scheduling differs. A batch of requests is
encoded together, takes its steps together, and is decoded together. What is most favourable to
batching by request is done: rows of different step counts share a call (the networks allow it), a
row that has finished takes no further part, and calls have the size measured to be cheapest. What
cannot be helped is that a batch is over when its longest request is, and that others wait for it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from service.api.answers import DepthAnswer, Scene, make_answer
from service.api.colors import near_warm_table
from service.api.formats import png_palette
from service.api.images import ImageLimits
from service.api.inputs import prepare_inputs, take_uploads
from service.backends.onnx import available_cores
from service.backends.repository import ServedModel, load_repository
from service.core.ddim import ddim_step
from service.core.tasks import TASKS
from service.core.tensors import Signature, model_tensors
from service.engine.profile import sample_inputs
from service.engine.request import Plan, PredictionRequest, Trajectory, collect_fields, make_run

SIZES = (1, 2, 4, 8, 16)
_LIMITS = ImageLimits(max_pixels=40_000_000, min_side=16, max_side=32_768)
_WORTH = 0.97  # a larger batch must make a row at least this much cheaper


@dataclass(frozen=True)
class Asked:
    """One call that has been read: what the networks get, and what its picture was."""

    request: PredictionRequest
    scene: Scene


class Networks:
    """Sessions with the options of the service's own, called on the caller's thread."""

    def __init__(self, model: ServedModel) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = available_cores()
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.signatures: Mapping[str, Signature] = model_tensors(model.artifact)
        self._sessions = {
            name: ort.InferenceSession(
                model.onnx_file(name), options, providers=["CPUExecutionProvider"]
            )
            for name in self.signatures
        }

    def run(self, network: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Call a network once."""
        (output,) = self._sessions[network].run(None, dict(inputs))
        return output

    def seconds(self, network: str, repeats: int = 5) -> dict[int, float]:
        """Median seconds of a call of each of `SIZES` rows."""
        costs = {}
        for rows in SIZES:
            inputs = sample_inputs(self.signatures[network], rows)
            self.run(network, inputs)
            costs[rows] = float(np.median([self._time(network, inputs) for _ in range(repeats)]))
        return costs

    def _time(self, network: str, inputs: Mapping[str, np.ndarray]) -> float:
        begun = time.perf_counter()
        self.run(network, inputs)
        return time.perf_counter() - begun


def cheapest_rows(seconds: Mapping[int, float]) -> int:
    """The smallest batch that hardly any larger one beats by the row."""
    best = 1
    for rows in sorted(seconds):
        if seconds[rows] / rows < _WORTH * seconds[best] / best:
            best = rows
    return best


def load_model(repository: Path) -> ServedModel:
    """The first model of a repository, which is the service's default."""
    return next(iter(load_repository(repository).values()))


class RequestLevel:
    """Answers depth calls in batches of whole requests."""

    def __init__(self, repository: Path, step_rows: int, image_rows: int) -> None:
        """Calls are of at most `step_rows` rows, of the encoder and decoder of `image_rows`."""
        self.model = load_model(repository)
        self.networks = Networks(self.model)
        self._step_rows, self._image_rows = step_rows, image_rows

    def read(self, data: bytes, steps: int, members: int, seed: int) -> Asked:
        """Decode a picture and bring it to the encoder's size."""
        artifact = self.model.artifact
        served = artifact.served("depth")
        uploads = take_uploads({"image": data}, TASKS["depth"], _LIMITS)
        inputs = prepare_inputs(uploads, artifact.encoder(served.encoder))
        request = PredictionRequest(
            model=self.model.artifact.key,
            artifact=artifact,
            task=served,
            image=inputs.images[0].values,
            prompt=None,
            plan=Plan(steps, members, seed),
            components=served.components,
        )
        scene = Scene(uploads, inputs.width, inputs.height, served.reduction, False, False)
        return Asked(request, scene)

    def predict(self, batch: Sequence[Asked]) -> list[dict[str, np.ndarray]]:
        """The encoded fields of every request of a batch, in order."""
        runs = [make_run(number, asked.request) for number, asked in enumerate(batch)]
        encoder = batch[0].request.encoder
        images = np.stack([asked.request.image for asked in batch])
        inputs = {"image": images}
        if encoder.prompt:
            inputs["prompt"] = np.full_like(images, batch[0].request.task.prompt_value)
        if encoder.label:
            labels = np.full(len(batch), batch[0].request.task.encoder_label, dtype=np.int64)
            inputs["task"] = labels
        for run, condition in zip(runs, self._in_parts(encoder.model, inputs), strict=True):
            run.condition = condition
        rows = [row for run in runs for row in run.trajectories]
        while left := [row for row in rows if row.step < len(row.run.sampling.timesteps)]:
            for start in range(0, len(left), self._step_rows):
                self._step(left[start : start + self._step_rows])
        artifact = self.model.artifact
        latents = np.stack([row.x_t for row in rows]) / np.float32(artifact.latent.scale)
        images = self._in_parts(artifact.decoder, {"latent": latents})
        for row, image in zip(rows, images, strict=True):
            row.image = image
        return [collect_fields(run) for run in runs]

    def draw(self, asked: Asked, fields: Mapping[str, np.ndarray]) -> bytes:
        """The answer as the service's default output, a coloured PNG of the upload's size."""
        answer = make_answer(asked.request.task.encoding, fields, asked.scene)
        assert isinstance(answer, DepthAnswer)
        return png_palette(answer.prediction, near_warm_table())

    def _step(self, rows: Sequence[Trajectory]) -> None:
        artifact = self.model.artifact
        steps = [(row.run.sampling, row.step) for row in rows]
        x_t = np.stack([row.x_t for row in rows])
        inputs = {
            "noisy": x_t,
            "condition": np.stack([row.run.condition for row in rows]),
            "timestep": np.array([s.timesteps[i] for s, i in steps], artifact.timestep_dtype),
        }
        if artifact.has_labels:
            inputs["task"] = np.array([row.label for row in rows], dtype=np.int64)
        prediction = self.networks.run(artifact.denoiser, inputs)
        a = np.array([s.a[i] for s, i in steps], dtype=np.float32)
        b = np.array([s.b[i] for s, i in steps], dtype=np.float32)
        for row, x_prev in zip(rows, ddim_step(x_t, prediction, a, b), strict=True):
            row.x_t = x_prev
            row.step += 1

    def _in_parts(self, network: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        num_rows, most = len(next(iter(inputs.values()))), self._image_rows
        parts = [
            self.networks.run(network, {k: v[start : start + most] for k, v in inputs.items()})
            for start in range(0, num_rows, most)
        ]
        return np.concatenate(parts)
