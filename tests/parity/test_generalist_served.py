"""The released generalist, converted and served over HTTP, against what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from PIL import Image

from tests.parity.conftest import Convert
from tests.parity.generalist_oracle import FRAME, SIDE, UNIT_PX, Expected, Oracle
from tests.parity.oracle import SEED, TOLERANCE, picture
from tests.support.pictures import disc, encode
from tests.support.public_generalist import SHAPE, Release, build_generalist
from tests.support.served import Arrays, client_of, read_npz
from training.onnx_storage import save_graph
from training.quantize import quantize

SIZES = ((SIDE, SIDE), (61, 40), (24, 70))  # width, height
BUDGETS = tuple((steps, members) for steps in (1, 4, 10) for members in (1, 3))
# What the release is sampled with, and a file that says otherwise in every way that one can.
SCHEDULERS: dict[str, dict[str, Any]] = {
    "stable diffusion 2": {},
    "another": {
        "_class_name": "PNDMScheduler",
        "prediction_type": "epsilon",
        "beta_schedule": "linear",
        "beta_end": 0.02,
        "timestep_spacing": "trailing",
        "set_alpha_to_one": True,
        "steps_offset": 0,
    },
}
BUDGETS_OF = {"stable diffusion 2": BUDGETS, "another": ((4, 3),)}

Build = Callable[[str], Release]
Repository = Callable[[str], Path]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Build:
    @cache
    def build(kind: str) -> Release:
        return build_generalist(tmp_path_factory.mktemp("release"), **SCHEDULERS[kind])

    return build


@pytest.fixture(scope="module")
def repository(release: Build, converted: Convert) -> Repository:
    @cache
    def build(kind: str) -> Path:
        found = release(kind)
        vae = str(found.stable_diffusion)
        heads = str(SHAPE.heads)
        return converted("scaling-perception", found.file, "--vae", vae, "--heads", heads)

    return build


async def ask(
    client: httpx.AsyncClient, task: str, pictures: dict[str, Image.Image], **fields: object
) -> Arrays:
    answer = await client.post(
        f"/{task}",
        files={name: encode(image) for name, image in pictures.items()},
        data={"output": "npz", **{key: str(value) for key, value in fields.items()}},
    )
    assert answer.status_code == 200, answer.text
    return read_npz(answer.content)


def uploads(task: str, size: tuple[int, int]) -> dict[str, Image.Image]:
    """A picture, and the second one of its task."""
    image = picture(*size)
    second = {
        "flow": {"frame2": Image.fromarray(np.roll(np.asarray(image), 3, axis=1))},
        "amodal": {"mask": Image.fromarray(disc(*size, radius=min(size) / 4))},
    }
    return {"frame1" if task == "flow" else "image": image, **second.get(task, {})}


@pytest.mark.parametrize("task", ["depth", "flow", "amodal"])
@pytest.mark.parametrize("kind", SCHEDULERS)
async def test_answers_over_http_are_the_release_s(
    kind: str, task: str, release: Build, repository: Repository
):
    answered = getattr(Oracle(release(kind)), task)
    async with client_of(repository(kind)) as client:
        for size in SIZES:
            pictures = uploads(task, size)
            for steps, members in BUDGETS_OF[kind]:
                expected = answered(*pictures.values(), steps, members)
                wanted = {"steps": steps, "ensemble": members, "seed": SEED, "uncertainty": "true"}
                arrays = await ask(client, task, pictures, **wanted)
                assert int(arrays["evaluations"]) == steps * members * (2 if task == "flow" else 1)
                REQUIRE[task](arrays, expected)
                # A median of masks that are 0 or 1 deviates by nothing.
                assert task == "amodal" or members == 1 or expected.uncertainty.max() > 1e-3


async def test_masks_that_disagree_have_a_mean_with_uncertainty(
    release: Build, repository: Repository
):
    pictures = uploads("amodal", SIZES[1])
    oracle = Oracle(release("stable diffusion 2"))
    expected = oracle.amodal(pictures["image"], pictures["mask"], 4, 3, "mean")
    wanted = {"steps": 4, "ensemble": 3, "seed": SEED, "uncertainty": "true", "reduction": "mean"}
    async with client_of(repository("stable diffusion 2")) as client:
        arrays = await ask(client, "amodal", pictures, **wanted)
    require_same_amodal(arrays, expected)
    assert expected.uncertainty[expected.sure].max() > 0.1


def require_same_depth(arrays: Arrays, expected: Expected) -> None:
    for name, value in (
        ("prediction", expected.prediction),
        ("uncertainty", expected.uncertainty),
    ):
        assert np.abs(arrays[name] - value).max() < TOLERANCE


def require_same_flow(arrays: Arrays, expected: Expected) -> None:
    """In units of the encoding, which are pictures in -1..1."""
    height, width, _ = expected.prediction.shape
    unit = UNIT_PX * np.array([width / FRAME[0], height / FRAME[1]])
    assert (np.ptp(expected.prediction, axis=(0, 1)) > 0.05 * unit).all()
    for name, value in (
        ("prediction", expected.prediction),
        ("uncertainty", expected.uncertainty),
    ):
        assert (np.abs(arrays[name] - value) / unit).max() < TOLERANCE


def require_same_amodal(arrays: Arrays, expected: Expected) -> None:
    sure = expected.sure
    assert sure is not None
    assert expected.appearance is not None
    assert sure.mean() > 0.8
    assert 0 < expected.prediction[sure].mean() < 1  # some of it is white, and some is not
    for name, value in (
        ("prediction", expected.prediction),
        ("uncertainty", expected.uncertainty),
    ):
        assert np.abs(arrays[name] - value)[sure].max() < TOLERANCE
    painted = arrays["mask"] & sure & (expected.prediction == 1)
    if sure.shape == (SIDE, SIDE):
        assert painted.any()
        hidden = painted & ~VISIBLE
        off = arrays["rgb"][..., :3][hidden] - 255 * expected.appearance.transpose(1, 2, 0)[hidden]
        assert np.abs(off).max() < 0.5 + 255 * TOLERANCE


VISIBLE = disc(SIDE, SIDE, radius=SIDE / 4) > 127
REQUIRE = {
    "depth": require_same_depth,
    "flow": require_same_flow,
    "amodal": require_same_amodal,
}


async def test_what_the_release_states_is_served(repository: Repository):
    async with client_of(repository("stable diffusion 2")) as client:
        (model,) = (await client.get("/models")).json()["models"]
    assert model["licence"] == "apache-2.0; autoencoder: openrail++"
    assert len(model["provenance"]["sha256 dit_moe_generalist.pt"]) == 64
    assert len(model["provenance"]["sha256 autoencoder scheduler/scheduler_config.json"]) == 64
    notes = " ".join(value for key, value in model["provenance"].items() if "note" in key)
    for said in ("4 heads", "timestep_spacing out", "epsilon and a cosine", "50 steps", "inferred"):
        assert said in notes


def test_experts_stay_sparse_in_the_graph(repository: Repository):
    path = repository("stable diffusion 2") / "public_denoiser" / "1" / "model.onnx"
    graph = onnx.load(path).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("NonZero") == SHAPE.depth * SHAPE.experts
    assert kinds.count("TopK") == SHAPE.depth
    # Of its own each: a stack would be copied, expert by expert, when it is loaded.
    opened = [weight for weight in graph.initializer if "experts.entered" in weight.name]
    assert len(opened) == SHAPE.depth * SHAPE.experts
    assert {tuple(weight.dims) for weight in opened} == {(SHAPE.width, 4 * SHAPE.width)}


def test_quantised_gates_would_send_tokens_elsewhere(repository: Repository, tmp_path: Path):
    model = ir.load(repository("stable diffusion 2") / "public_denoiser" / "1" / "model.onnx")
    quantize(model)
    save_graph(model, tmp_path / "model.onnx", "fp32")
    graph = onnx.load(tmp_path / "model.onnx").graph
    kinds = {weight.name: weight.data_type for weight in graph.initializer}
    whole = [name for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT]
    assert sum("gate.weight" in name for name in whole) == SHAPE.depth
    whole_experts = [n for n in whole if "experts.entered" in n and not n.endswith("_scale")]
    assert not [name for name in whole_experts if "bias" not in name]
