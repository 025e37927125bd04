"""Requests to the engine for the tiny model, with pictures made from a number."""

import numpy as np

from service.backends.repository import ServedModel
from service.core.tasks import TaskName
from service.engine.request import Plan, PredictionRequest


def make_picture(number: int, height: int = 64, width: int = 64) -> np.ndarray:
    """Return smooth colours (3, H, W) float32 in [-1, 1], different for every number."""
    generator = np.random.default_rng(number)
    frequency, phase = (
        generator.uniform(0.02, 0.2, (2, 3, 1, 1)),
        generator.uniform(0, 6, (3, 1, 1)),
    )
    y, x = np.mgrid[:height, :width]
    return np.sin(frequency[0] * y + frequency[1] * x + phase).astype(np.float32)


def make_request(
    model: ServedModel,
    task: TaskName = "depth",
    *,
    steps: int = 3,
    members: int = 2,
    seed: int = 1,
    picture: int = 1,
    components: int | None = None,
) -> PredictionRequest:
    """Return a request for the first `components` components of a task, or all."""
    served = model.artifact.served(task)
    prompt = make_picture(picture + 1000) if served.prompt == "second" else None
    return PredictionRequest(
        model=model.artifact.key,
        artifact=model.artifact,
        task=served,
        image=make_picture(picture),
        prompt=prompt,
        plan=Plan(steps, members, seed),
        components=served.components[:components],
    )
