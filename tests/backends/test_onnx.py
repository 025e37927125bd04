"""Networks that do not match their artifact are refused at load, and what they compute is right."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from service.backends.base import BackendError
from service.backends.onnx import OnnxBackend, available_cores
from service.backends.repository import ServedModel
from service.core.artifact import FixedSize
from tests.support import tiny_repository as tiny
from tests.support.requests import make_picture


def patch_means(pictures: np.ndarray) -> np.ndarray:
    return pictures.reshape(len(pictures), 3, 8, 8, 8, 8).mean(axis=(3, 5))


async def test_the_tiny_networks_compute_what_they_say(model: ServedModel) -> None:
    backend = OnnxBackend([model], threads=1)
    (worker,) = backend.workers
    images = np.stack([make_picture(1), make_picture(2)])
    prompts = np.stack([make_picture(3), make_picture(4)])
    flow = await worker.run("tiny_flow_encoder:1", {"image": images, "prompt": prompts})
    joined = np.concatenate([patch_means(images), patch_means(prompts)], axis=1)
    np.testing.assert_allclose(flow, joined, atol=1e-6)
    labels = np.array([2, 0])
    depth = await worker.run("tiny_depth_encoder:1", {"image": images, "task": labels})
    shift = tiny.LABEL_SHIFT * labels[:, None, None, None]
    np.testing.assert_allclose(depth[:, :3], patch_means(images) + shift, atol=1e-6)

    noisy = np.random.default_rng(0).standard_normal((4, 4, 8, 8), dtype=np.float32)
    t, task = np.array([0, 300, 700, 999]), np.arange(4)
    condition = flow[[0, 1, 0, 1]]
    inputs = {"noisy": noisy, "condition": condition, "timestep": t, "task": task}
    v = await worker.run("tiny_denoiser:1", inputs)
    alpha_bar = tiny.SCHEDULE.build().alpha_bar[t][:, None, None, None]
    signal, noise = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    mean = tiny.SCALE * np.tanh(np.einsum("bck,bkhw->bchw", tiny.TARGETS[task], condition))
    x_0 = signal * noisy - noise * v
    # x_0 = E[x_0 | x_t] exactly when the innovation is weighed by cov(x_0, x_t) / var(x_t)
    weight = signal * tiny.SIGMA**2 / (alpha_bar * tiny.SIGMA**2 + 1 - alpha_bar)
    np.testing.assert_allclose(x_0, mean + weight * (noisy - signal * mean), atol=1e-5)

    latent = np.random.default_rng(1).standard_normal((2, 4, 8, 8), dtype=np.float32)
    image = await worker.run("tiny_decoder:1", {"latent": latent})
    centres = image[:, :, 3:5, 3:5].mean(axis=(2, 3))
    np.testing.assert_allclose(centres, latent[:, :3, 0, 0], atol=0.35)
    np.testing.assert_allclose(image[:, :, 0, 0], latent[:, :3, 0, 0], atol=1e-6)
    await backend.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"condition_channels": 5}, "condition has shape"),
        ({"timestep_dtype": "float32"}, "timestep is int64 and its artifact says float32"),
        ({"has_labels": False}, "takes .*'task'.* and its artifact says"),
        ({"decoder": "tiny_denoiser"}, "takes"),
    ],
)
def test_networks_that_contradict_the_artifact_are_refused(
    model: ServedModel, change: dict[str, Any], message: str
) -> None:
    wrong = replace(model, artifact=replace(model.artifact, **change))
    with pytest.raises(BackendError, match=message):
        OnnxBackend([wrong], threads=1)


def test_an_encoder_of_another_size_is_refused(model: ServedModel) -> None:
    encoders = tuple(replace(spec, size=FixedSize(128, 64)) for spec in model.artifact.encoders)
    wrong = replace(model, artifact=replace(model.artifact, encoders=encoders))
    with pytest.raises(BackendError, match=r"image has shape .*\[batch, 3, 128, 64\]"):
        OnnxBackend([wrong], threads=1)


def test_a_fixed_batch_is_refused(model: ServedModel, own_repository: Path) -> None:
    path = own_repository / "tiny_decoder/1/model.onnx"
    network = onnx.load(path)
    network.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(network, path)
    with pytest.raises(BackendError, match="fixed batch of 1"):
        OnnxBackend([replace(model, folder=own_repository)], threads=1)


def test_an_output_of_another_name_is_refused(model: ServedModel, own_repository: Path) -> None:
    path = own_repository / "tiny_decoder/1/model.onnx"
    network = onnx.load(path)
    network.graph.node[-1].output[0] = network.graph.output[0].name = "picture"
    onnx.save(network, path)
    with pytest.raises(BackendError, match="no output 'image'"):
        OnnxBackend([replace(model, folder=own_repository)], threads=1)


def test_a_file_that_is_no_network_is_refused(model: ServedModel, own_repository: Path) -> None:
    path = own_repository / "tiny_decoder/1/model.onnx"
    path.write_bytes(hashlib.sha256(b"").digest())
    with pytest.raises(BackendError, match="does not load"):
        OnnxBackend([replace(model, folder=own_repository)], threads=1)


async def test_a_call_that_fails_names_the_network(model: ServedModel) -> None:
    backend = OnnxBackend([model], threads=1)
    (worker,) = backend.workers
    with pytest.raises(BackendError, match="tiny_decoder:1 failed"):
        await worker.run("tiny_decoder:1", {"latent": np.zeros((1, 5, 8, 8), np.float32)})
    latent = np.zeros((1, 4, 8, 8), np.float32)
    assert (await worker.run("tiny_decoder:1", {"latent": latent})).shape == (1, 3, 64, 64)
    await backend.close()


async def test_instances_are_workers_that_share_a_device(model: ServedModel) -> None:
    backend = OnnxBackend([model], instances=3, threads=1)
    assert [worker.name for worker in backend.workers] == ["cpu:0", "cpu:1", "cpu:2"]
    assert {worker.device for worker in backend.workers} == {"cpu"}
    await backend.close()


def test_a_device_that_is_not_there_is_refused(model: ServedModel) -> None:
    with pytest.raises(BackendError, match="cuda:7777"):  # no machine has so many
        OnnxBackend([model], devices=["cuda:7777"], threads=1)


def test_counts_below_one_are_refused(model: ServedModel) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        OnnxBackend([model], instances=0)
    with pytest.raises(ValueError, match="at least 1"):
        OnnxBackend([model], threads=0)
    assert available_cores() >= 1
