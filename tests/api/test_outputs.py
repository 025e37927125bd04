"""The contract of every endpoint x output, read back by Pillow and numpy."""

import base64
import re
from io import BytesIO

import httpx
import numpy as np
import pytest

from service.api.colors import near_warm_table
from service.core.tasks import TASKS
from tests.api.test_formats import read_flo, read_rgb16
from tests.support.pictures import decode, disc, encode, gradient, task_files

WIDTH, HEIGHT = 150, 90
EVERY_OUTPUT = [(task.name, output) for task in TASKS.values() for output in task.outputs]
# Axes of a map of uncertainty: as many as the prediction's, or one number per pixel.
SPREAD_AXES = {"depth": 2, "flow": 3, "amodal": 2, "normals": 2}
STAGES = ["queue", "encode", "denoise", "decode", "reduce", "render"]


async def ask(client: httpx.AsyncClient, task: str, **knobs: object) -> httpx.Response:
    data = {"seed": "7", **{name: str(value) for name, value in knobs.items()}}
    answer = await client.post(f"/{task}", files=task_files(task, WIDTH, HEIGHT), data=data)
    assert answer.status_code == 200, answer.text
    return answer


async def ask_npz(client: httpx.AsyncClient, task: str, **knobs: object) -> dict[str, np.ndarray]:
    answer = await ask(client, task, output="npz", **knobs)
    with np.load(BytesIO(answer.content), allow_pickle=False) as loaded:
        return dict(loaded)


@pytest.mark.parametrize(("task", "output"), EVERY_OUTPUT)
async def test_headers_of_every_output(client, task, output):
    answer = await ask(client, task, output=output, steps=3, ensemble=2)
    headers = answer.headers
    components = 2 if (task, output) in {("amodal", "rgb"), ("amodal", "npz")} else 1
    assert headers["x-percept-steps"] == "3"
    assert headers["x-percept-ensemble"] == "2"
    assert headers["x-percept-evaluations"] == str(6 * components)
    assert float(headers["x-percept-expected-error"]) > 0
    assert headers["x-percept-seed"] == "7"
    assert headers["x-percept-model"] == "tiny:1"
    assert "x-percept-uncertainty" not in headers
    timing = re.findall(r"(\w+);dur=([\d.]+)", headers["server-timing"])
    assert [stage for stage, _ in timing] == STAGES
    extension = {"npz": "npz", "json": "json", "flo": "flo"}.get(output, "png")
    assert f'filename="{task}.{extension}"' in headers["content-disposition"]
    kinds = {"png": "image/png", "json": "application/json", "npz": "application/x-npz"}
    assert headers["content-type"] == kinds.get(extension, "application/octet-stream")


@pytest.mark.parametrize(("task", "output"), EVERY_OUTPUT)
async def test_the_same_seed_gives_the_same_bytes(client, task, output):
    answers = [await ask(client, task, output=output, uncertainty=True) for _ in range(2)]
    if output == "json":
        first, second = (answer.json() for answer in answers)
        assert first.pop("timings").keys() == second.pop("timings").keys()
        assert first == second
    else:
        assert answers[0].content == answers[1].content


@pytest.mark.parametrize(("task", "image"), [("depth", "color"), ("flow", "color")])
async def test_default_output(client, task, image):
    plain = await ask(client, task)
    named = await ask(client, task, output=image)
    assert plain.content == named.content


async def test_defaults_are_the_models_and_the_seed_is_drawn(client):
    files = task_files("depth")
    seeds = set()
    for _ in range(2):
        answer = await client.post("/depth", files=files)
        assert answer.headers["x-percept-steps"] == "2"
        assert answer.headers["x-percept-ensemble"] == "3"
        seeds.add(answer.headers["x-percept-seed"])
    assert len(seeds) == 2
    seed = seeds.pop()
    again = await client.post("/depth", files=files, data={"seed": seed})
    assert again.headers["x-percept-seed"] == seed


async def test_seed_may_be_any_u64(client):
    run = await ask_npz(client, "depth", seed=2**64 - 1)
    assert int(run["seed"]) == 2**64 - 1


async def test_depth_forms_agree(client):
    arrays = await ask_npz(client, "depth")
    depth = arrays["prediction"]
    assert depth.dtype == np.float32
    assert depth.shape == (HEIGHT, WIDTH)
    assert (depth.min(), depth.max()) == (0, 1)
    wide = np.asarray(decode((await ask(client, "depth", output="png16")).content))
    np.testing.assert_array_equal(wide, np.round(depth * 65535).astype(np.uint16))
    image = decode((await ask(client, "depth", output="color")).content).convert("RGB")
    want = near_warm_table()[np.round(depth * 255).astype(np.uint8)]
    np.testing.assert_array_equal(np.asarray(image), want)


async def test_depth_follows_the_picture(client):
    """The test's model calls dark near: depth must be the upload's own brightness, upright."""
    arrays = await ask_npz(client, "depth", ensemble=8, steps=5)
    brightness = gradient(WIDTH, HEIGHT).mean(axis=-1)
    assert np.corrcoef(arrays["prediction"].ravel(), brightness.ravel())[0, 1] > 0.9


async def test_depth_json(client):
    arrays = await ask_npz(client, "depth", uncertainty=True)
    answer = (await ask(client, "depth", output="json", uncertainty=True)).json()
    assert answer["run"] == {
        "task": "depth",
        "model": "tiny:1",
        "steps": 2,
        "ensemble": 3,
        "evaluations": 6,
        "unit": "relative depth",
        "expected_error": pytest.approx(0.2 * (0.8 + 0.1 / 2 + 0.1 / 3), rel=1e-5),
        "error_metric": "abs_rel",
        "seed": 7,
        "reduction": "aligned",
        "width": WIDTH,
        "height": HEIGHT,
    }
    assert list(answer["timings"]) == STAGES[:-1]
    for data, want in (
        (answer["prediction"], arrays["prediction"]),
        (answer["uncertainty"]["maps"][0], arrays["uncertainty"]),
    ):
        samples = np.asarray(decode(base64.b64decode(data["data"])), dtype=np.float64)
        np.testing.assert_allclose(samples * data["scale"] + data["offset"], want, atol=2e-5)
    assert answer["uncertainty"]["mean"] == pytest.approx(arrays["uncertainty"].mean(), rel=1e-4)


async def test_flow_forms_agree(client):
    flow = (await ask_npz(client, "flow"))["prediction"]
    assert flow.dtype == np.float32
    assert flow.shape == (HEIGHT, WIDTH, 2)
    np.testing.assert_array_equal(read_flo((await ask(client, "flow", output="flo")).content), flow)
    stored = read_rgb16((await ask(client, "flow", output="kitti")).content)
    np.testing.assert_allclose((stored[..., :2] - 2.0**15) / 64, flow, atol=1 / 128 + 1e-6)
    assert (stored[..., 2] == 1).all()
    color = await ask(client, "flow", output="color")
    assert np.asarray(decode(color.content)).shape == (HEIGHT, WIDTH, 3)
    length = np.hypot(flow[..., 0], flow[..., 1])
    scale_px = float(color.headers["x-percept-flow-scale"])
    assert scale_px == pytest.approx(np.percentile(length, 99), rel=0.02)
    answer = (await ask(client, "flow", output="json")).json()
    assert answer["mean_length_px"] == pytest.approx(length.mean(), rel=1e-4)
    assert answer["max_length_px"] == pytest.approx(length.max(), rel=1e-4)
    data = answer["prediction"]
    samples = read_rgb16(base64.b64decode(data["data"]))[..., :2]
    np.testing.assert_allclose(samples * data["scale"] + data["offset"], flow, atol=1 / 127)


async def test_flow_is_in_pixels_of_the_upload(client):
    """The model's u and v are shares of the picture: each axis scales by its own factor."""
    flows = {}
    for size in ((64, 64), (128, 192)):
        files = task_files("flow", *size)
        data = {"output": "npz", "seed": "1", "steps": "4"}
        answer = await client.post("/flow", files=files, data=data)
        flows[size] = np.load(BytesIO(answer.content))["prediction"]
    small, large = (flow[16:-16, 16:-16].mean(axis=(0, 1)) for flow in flows.values())
    assert small[0] > 0.5  # red grew, so u is to the right
    assert small[1] < -0.3  # green fell, so v is upwards
    np.testing.assert_allclose(large / small, [2, 3], rtol=0.02)


async def test_amodal_forms_agree(client):
    arrays = await ask_npz(client, "amodal")
    visible = disc(WIDTH, HEIGHT) > 0
    whole = arrays["mask"]
    assert whole.dtype == bool
    np.testing.assert_array_equal(whole, arrays["prediction"] > 0.5)
    assert whole[visible].all()
    mask = np.asarray(decode((await ask(client, "amodal", output="mask")).content))
    np.testing.assert_array_equal(mask, np.where(whole, 255, 0))
    picture = gradient(WIDTH, HEIGHT)
    overlay = np.asarray(decode((await ask(client, "amodal", output="overlay")).content))
    np.testing.assert_array_equal(overlay[~whole], picture[~whole])
    assert (overlay[visible] != picture[visible]).any(axis=-1).mean() > 0.9
    rgba = np.asarray(decode((await ask(client, "amodal", output="rgb")).content))
    np.testing.assert_array_equal(rgba, arrays["rgb"])
    np.testing.assert_array_equal(rgba[..., 3] > 0, whole)
    np.testing.assert_array_equal(rgba[visible, :3], picture[visible])
    assert (rgba[~whole, :3] == 255).all()
    answer = (await ask(client, "amodal", output="json")).json()
    assert answer["visible_pixels"] == visible.sum()
    assert answer["whole_pixels"] == whole.sum()
    assert answer["hidden_fraction"] == pytest.approx(1 - visible.sum() / whole.sum())
    left, top, right, bottom = answer["box"]
    assert whole[top:bottom, left:right].sum() == whole.sum()
    inside = np.asarray(decode(base64.b64decode(answer["prediction"]["data"])))
    np.testing.assert_array_equal(inside, mask)


async def test_normals_forms_agree(client):
    arrays = await ask_npz(client, "normals", uncertainty=True)
    normals = arrays["prediction"]
    assert normals.dtype == np.float32
    assert normals.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-5)
    wide = read_rgb16((await ask(client, "normals", output="png16")).content)
    np.testing.assert_allclose(wide / 32767.5 - 1, normals, atol=0.5 / 32767 + 1e-6)
    color = np.asarray(decode((await ask(client, "normals", output="color")).content))
    np.testing.assert_allclose(color / 127.5 - 1, normals, atol=0.5 / 127 + 1e-6)
    answer = (await ask(client, "normals", output="json", uncertainty=True)).json()
    assert answer["run"]["unit"] == "unit vector: x right, y up, z to the viewer"
    assert answer["run"]["reduction"] == "closest"
    data = answer["prediction"]
    samples = read_rgb16(base64.b64decode(data["data"]))
    np.testing.assert_allclose(samples * data["scale"] + data["offset"], normals, atol=2e-5)
    (spread,) = answer["uncertainty"]["maps"]
    angle = np.asarray(decode(base64.b64decode(spread["data"]))) * spread["scale"]
    np.testing.assert_allclose(angle, arrays["uncertainty"], atol=2e-5)


async def test_normals_follow_the_picture(client):
    """The test's model calls red right and green up: as the upload's own colours, upright."""
    arrays = await ask_npz(client, "normals", ensemble=8, steps=5, reduction="mean")
    colours = gradient(WIDTH, HEIGHT).astype(np.float32) / 127.5 - 1
    for axis in (0, 1):
        relative = arrays["prediction"][..., axis].ravel()
        assert np.corrcoef(relative, colours[..., axis].ravel())[0, 1] > 0.8


async def test_the_visible_mask_is_always_inside(client):
    """Pixels that no mask at the model's size can hold are still in the answer."""
    mask = np.zeros((400, 600), np.uint8)
    mask[13, 17] = mask[390, 590] = 255
    files = {"image": encode(gradient(600, 400)), "mask": encode(mask)}
    answer = await client.post("/amodal", files=files)
    whole = np.asarray(decode(answer.content))
    assert whole.shape == mask.shape
    assert whole[mask > 0].all()


async def test_uncertainty_of_the_visible_part_is_zero(client):
    arrays = await ask_npz(client, "amodal", uncertainty=True, ensemble=5, reduction="mean")
    visible = disc(WIDTH, HEIGHT) > 0
    assert (arrays["uncertainty"][visible] == 0).all()
    assert arrays["uncertainty"].max() > 0


@pytest.mark.parametrize("task", list(TASKS))
async def test_members_and_uncertainty_in_npz(client, task):
    arrays = await ask_npz(
        client, task, ensemble=5, uncertainty=True, all_members=True, reduction="mean"
    )
    assert arrays["uncertainty"].shape == arrays["prediction"].shape[: SPREAD_AXES[task]]
    assert arrays["members"].shape == (5, *arrays["prediction"].shape)
    assert arrays["uncertainty"].max() > 0
    assert len(np.unique(arrays["members"].reshape(5, -1)[:, WIDTH * 2])) > 1 or task == "amodal"
    plain = await ask_npz(client, task, ensemble=5, reduction="mean")
    assert "members" not in plain
    assert "uncertainty" not in plain
    np.testing.assert_array_equal(plain["prediction"], arrays["prediction"])
    assert {str(plain["task"]), str(plain["model"]), str(plain["reduction"])} == {
        task,
        "tiny:1",
        "mean",
    }
    assert int(plain["ensemble"]) == 5


async def test_flow_mean_of_members_is_the_prediction(client):
    arrays = await ask_npz(client, "flow", ensemble=6, all_members=True, uncertainty=True)
    members = arrays["members"]
    np.testing.assert_allclose(members.mean(axis=0), arrays["prediction"], atol=1e-4)
    one = await ask_npz(client, "flow", ensemble=1)
    np.testing.assert_allclose(members[0], one["prediction"], atol=1e-3)


async def test_depth_members_are_predictions_of_their_own(client):
    arrays = await ask_npz(client, "depth", ensemble=4, all_members=True)
    for index, member in enumerate(arrays["members"]):
        assert (member.min(), member.max()) == (0, 1), index
    alone = await ask_npz(client, "depth", ensemble=1)
    np.testing.assert_allclose(arrays["members"][0], alone["prediction"], atol=1e-3)


@pytest.mark.parametrize(("task", "output"), [("depth", "color"), ("flow", "flo")])
async def test_images_say_their_mean_uncertainty_in_a_header(client, task, output):
    knobs = {"ensemble": 5, "uncertainty": True}
    image = await ask(client, task, output=output, **knobs)
    spread = (await ask_npz(client, task, **knobs))["uncertainty"].mean()
    assert float(image.headers["x-percept-uncertainty"]) == pytest.approx(spread, rel=1e-4)


@pytest.mark.parametrize("reduction", TASKS["depth"].reductions)
async def test_reductions(client, reduction):
    arrays = await ask_npz(client, "depth", reduction=reduction, ensemble=3)
    assert str(arrays["reduction"]) == reduction


@pytest.mark.parametrize(("width", "height"), [(16, 16), (16, 300), (301, 17), (64, 64)])
@pytest.mark.parametrize("task", list(TASKS))
async def test_answers_have_the_uploads_size(client, task, width, height):
    files = task_files(task, width, height)
    if task == "amodal":
        files["mask"] = encode(disc(width, height, radius=6))
    answer = await client.post(f"/{task}", files=files)
    assert answer.status_code == 200, answer.text
    assert decode(answer.content).size == (width, height)
