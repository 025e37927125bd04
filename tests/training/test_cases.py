"""Real cases in the formats that their sources publish."""

import json
import struct
from pathlib import Path

import numpy as np
import png
import pytest
from PIL import Image

from training.data.cases import Cases
from training.data.files import read_flo, read_kitti_flow
from training.data.sample import DataError

HEIGHT, WIDTH = 5, 7


def write_flo(path: Path, flow: np.ndarray) -> None:
    height, width = flow.shape[1:]
    vectors = flow.transpose(1, 2, 0).astype("<f4").tobytes()
    path.write_bytes(struct.pack("<fii", 202021.25, width, height) + vectors)


def write_kitti(path: Path, flow: np.ndarray, valid: np.ndarray) -> None:
    values = np.dstack([*(np.round(64 * flow) + 2**15), valid]).astype(np.uint16)
    with path.open("wb") as file:
        writer = png.Writer(flow.shape[2], flow.shape[1], greyscale=False, bitdepth=16)
        writer.write(file, values.reshape(len(values), -1).tolist())


def picture(path: Path, seed: int) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def flow() -> np.ndarray:
    quarters = np.random.default_rng(0).integers(-400, 400, (2, HEIGHT, WIDTH))
    return (quarters / 4).astype(np.float32)


def write_manifest(folder: Path, **tasks: object) -> Cases:
    (folder / "manifest.json").write_text(json.dumps({"about": "for tests", **tasks}))
    return Cases(folder)


def test_middlebury_flow(tmp_path: Path, flow: np.ndarray):
    flow[:, 1, 2] = 1.7e9  # unknown, as the format marks it
    write_flo(tmp_path / "a.flo", flow)
    read, valid = read_flo(tmp_path / "a.flo")
    assert read.shape == (2, HEIGHT, WIDTH)
    assert not valid[1, 2]
    assert valid.sum() == HEIGHT * WIDTH - 1
    np.testing.assert_array_equal(read[:, valid], flow[:, valid])
    assert (read[:, 1, 2] == 0).all()


@pytest.mark.parametrize("damage", [b"", b"PIEH", b"x" * 12])
def test_a_file_that_is_no_flow_is_refused(tmp_path: Path, damage: bytes):
    (tmp_path / "a.flo").write_bytes(damage)
    with pytest.raises(DataError, match=r"a\.flo does not begin"):
        read_flo(tmp_path / "a.flo")


def test_a_truncated_flow_is_refused(tmp_path: Path, flow: np.ndarray):
    write_flo(tmp_path / "a.flo", flow)
    whole = (tmp_path / "a.flo").read_bytes()
    (tmp_path / "a.flo").write_bytes(whole[:-4])
    with pytest.raises(DataError, match="should hold 7 x 5 vectors"):
        read_flo(tmp_path / "a.flo")


def test_kitti_flow(tmp_path: Path, flow: np.ndarray):
    valid = np.random.default_rng(1).random((HEIGHT, WIDTH)) > 0.3
    write_kitti(tmp_path / "a.png", flow, valid)
    read, known = read_kitti_flow(tmp_path / "a.png")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(known, valid)
    np.testing.assert_array_equal(read, np.where(valid, flow, 0))


def test_a_file_that_is_no_png_is_refused(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"a\.png cannot be read"):
        read_kitti_flow(tmp_path / "a.png")


@pytest.mark.parametrize("below", ["", "flow"])
def test_flow_cases(tmp_path: Path, flow: np.ndarray, below: str):
    folder = tmp_path / below
    folder.mkdir(exist_ok=True)
    first, second = picture(folder / "0.png", 0), picture(folder / "1.png", 1)
    write_flo(folder / "m.flo", flow)
    write_kitti(folder / "k.png", flow, np.ones((HEIGHT, WIDTH)))
    entry = {"image0": "0.png", "image1": "1.png", "width": WIDTH}
    entries = [{"id": "m", "gt": "m.flo", **entry}, {"id": "k", "gt": "k.png", **entry}]
    cases = list(write_manifest(tmp_path, flow=entries).flow())
    assert [case.name for case in cases] == ["m", "k"]
    for case in cases:
        np.testing.assert_array_equal(case.truth, flow)
        np.testing.assert_array_equal(np.asarray(case.frame1), first)
        np.testing.assert_array_equal(np.asarray(case.frame2), second)


def test_depth_cases(tmp_path: Path):
    picture(tmp_path / "a.jpg", 0)
    raw = np.random.default_rng(0).integers(1, 60_000, (HEIGHT, WIDTH)).astype(np.uint16)
    raw[0, 0] = 0
    Image.fromarray(raw).save(tmp_path / "a_gt.png")
    entry = {"image": "a.jpg", "gt": "a_gt.png", "gt_png_scale": 5000, "invalid_value": 0}
    entries = [
        {"id": "metres", "kind": "depth_m", **entry},
        {"id": "inverse", "kind": "inv_depth_affine", **entry},
    ]
    metres, inverse = write_manifest(tmp_path, depth=entries).depth()
    assert not metres.inverse
    assert inverse.inverse
    np.testing.assert_allclose(metres.truth, raw / 5000, rtol=1e-6)
    assert metres.truth.dtype == np.float32
    np.testing.assert_array_equal(metres.valid, raw > 0)
    assert metres.image.size == (WIDTH, HEIGHT)
    assert metres.image.mode == "RGB"


def test_amodal_cases(tmp_path: Path):
    picture(tmp_path / "a.png", 0)
    amodal = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    amodal[1:4, 1:6] = 255
    visible = amodal.copy()
    visible[:, 4:] = 100  # not above the middle: not visible
    for name, mask in (("visible", visible), ("amodal", amodal)):
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    entry = {"id": "a", "image": "a.png", "visible": "visible.png", "amodal": "amodal.png"}
    (case,) = write_manifest(tmp_path, amodal=[entry]).amodal()
    assert case.visible.sum() == 9
    assert case.amodal.sum() == 15
    assert list(write_manifest(tmp_path).depth()) == []


def test_wrong_manifests_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"manifest\.json cannot be read"):
        list(Cases(tmp_path).flow())
    cases = write_manifest(tmp_path, flow=[{"id": "a"}], depth=[{"gt": "absent.png"}])
    with pytest.raises(DataError, match=r"flow\[0\] has no 'gt'"):
        list(cases.flow())
    with pytest.raises(DataError, match=r"absent\.png cannot be read"):
        list(cases.depth())
    picture(tmp_path / "a.png", 0)
    entry = {"id": "a", "image": "a.png", "gt": "a.png", "kind": "metres", "invalid_value": 0}
    with pytest.raises(DataError, match=r"depth\[0\] has kind 'metres'"):
        list(write_manifest(tmp_path, depth=[entry]).depth())
    scaled = {**entry, "kind": "depth_m", "gt_png_scale": "4"}
    with pytest.raises(DataError, match=r"gt_png_scale is '4', not a number"):
        list(write_manifest(tmp_path, depth=[scaled]).depth())
