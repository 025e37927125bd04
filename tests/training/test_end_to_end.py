"""From nothing to an answer: autoencoder, generalist, measurement, export, engine."""

from pathlib import Path

import numpy as np
import pytest

from service.backends.onnx import OnnxBackend
from service.backends.repository import load_repository
from service.core.tasks import TASKS
from service.engine.engine import Engine
from service.engine.request import Plan, PredictionRequest
from tests.support.requests import make_picture
from tests.training.conftest import Build
from training.targets import COMPONENTS

FORMS = ("tiny", "tiny-concatenated")


@pytest.mark.parametrize("form", FORMS)
async def test_a_trained_model_answers_every_task_through_the_engine(exported: Build, form: str):
    (model,) = load_repository(exported(form)).values()
    assert model.artifact.key == "small:1"
    backend = OnnxBackend([model], instances=1, threads=1)
    engine = Engine(backend)
    await engine.start()
    try:
        for task in COMPONENTS:
            served = model.artifact.served(task)
            encoder = model.artifact.encoder(served.encoder)
            prompt = make_picture(2, *encoder.size.example)
            request = PredictionRequest(
                model=model.artifact.key,
                artifact=model.artifact,
                task=served,
                image=make_picture(1, *encoder.size.example),
                prompt=prompt if served.prompt == "second" else None,
                plan=Plan(served.steps, 2, seed=3),
                components=served.components,
            )
            result = await engine.predict(request)
            assert result.fields.keys() == TASKS[task].fields
            for values in result.fields.values():
                assert values.shape == (2, 64, 64)
                assert np.isfinite(values).all()
                assert values[0].std() > 0
                assert not np.array_equal(values[0], values[1])
    finally:
        await engine.stop()
        await backend.close()


def test_nothing_but_the_runs_own_folder_is_written(finetuned: Build):
    folder: Path = finetuned("tiny")
    assert {path.name for path in folder.iterdir()} >= {
        "checkpoints",
        "curves",
        "model.json",
        "model.safetensors",
    }
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert kept == ["00000004", "00000006"]
