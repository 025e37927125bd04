"""What is measured is what is served: a judge's answer is the service's, for the same members."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from service.api.answers import DepthAnswer, Scene, make_answer
from service.api.images import ImageLimits, Upload
from service.core.encodings import Encoding
from service.core.tasks import TASKS, TaskName
from training.answers import fields_of
from training.judges import JUDGES
from training.targets import AMODAL, COMPONENTS, DEPTH, FLOW

HEIGHT, WIDTH, MODEL = 50, 70, 32
ENCODINGS: dict[TaskName, Encoding] = {"depth": DEPTH, "flow": FLOW, "amodal": AMODAL}


def upload(field: str, pixels: np.ndarray) -> Upload:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return Upload(field, file.getvalue(), ImageLimits(10**6, 1, 1000))


@pytest.mark.parametrize("members", [1, 2, 5])
@pytest.mark.parametrize("task", COMPONENTS)
def test_a_judge_answers_as_the_service(task: TaskName, members: int):
    judge = JUDGES[task]
    generator = np.random.default_rng(0)
    pictures = generator.normal(0, 0.6, (members, 3, MODEL, MODEL)).astype(np.float32)
    (component,) = judge.reading.wanted(COMPONENTS[task])
    fields = {
        name: pictures[:, list(channels)].mean(axis=1)
        for name, channels in component.channels.items()
    }
    for name, maps in fields_of([component], {component.name: pictures}).items():
        np.testing.assert_array_equal(maps, fields[name])
    visible = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    visible[10:30, 20:40] = 255
    second = visible if task == "amodal" else np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels = (np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8), second)
    uploads = tuple(
        upload(name, values) for name, values in zip(TASKS[task].images, pixels, strict=False)
    )
    scene = Scene(uploads, WIDTH, HEIGHT, judge.reduction, uncertainty=False, all_members=False)
    served = make_answer(ENCODINGS[task], fields, scene)
    expected = np.atleast_3d(served.prediction.T).T
    got = judge.answer(fields, HEIGHT, WIDTH)
    finish: dict[TaskName, Callable[[np.ndarray], np.ndarray]] = {
        "depth": lambda depth: (depth - depth.min()) / np.ptp(depth),  # the service stretches
        "flow": lambda flow: flow,
        "amodal": lambda coverage: np.maximum(coverage, visible > 0),
    }
    np.testing.assert_allclose(finish[task](got), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(served, DepthAnswer) == (task == "depth")
