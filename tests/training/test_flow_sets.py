"""The flow sets' readers, on tiny files in the published formats and on real samples."""

import shutil
import struct
from pathlib import Path

import numpy as np
import png
import pytest
from PIL import Image

from tests.support.set_files import SHARED, write_mask, write_picture
from training.data.files import read_flo, read_kitti_flow, read_picture
from training.data.sample import DataError, FlowTruth, Sample
from training.data.sets import SETS, open_set

RANDOM = np.random.default_rng(3)


def picture(path: Path, size=(4, 6)) -> np.ndarray:
    return write_picture(path, RANDOM, size)


def flo(path: Path, flow: np.ndarray) -> None:
    """A `.flo` file by its published description, from flow (2, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, height, width = flow.shape
    header = b"PIEH" + struct.pack("<ii", width, height)
    path.write_bytes(header + flow.transpose(1, 2, 0).astype("<f4").tobytes())


def kitti(path: Path, flow: np.ndarray, valid: np.ndarray) -> None:
    """A KITTI flow PNG by its published description, from flow (2, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.where(valid, flow * 64 + 2**15, 0).astype(np.uint16)
    rows = np.concatenate([levels, valid[None].astype(np.uint16)]).transpose(1, 2, 0)
    writer = png.Writer(valid.shape[1], valid.shape[0], greyscale=False, bitdepth=16)
    with path.open("wb") as file:
        writer.write(file, rows.reshape(len(rows), -1).tolist())


def some_flow(size=(4, 6)) -> np.ndarray:
    """Multiples of 1/64 px, which every format here holds exactly."""
    return (RANDOM.integers(-3000, 3000, (2, *size)) / 64).astype(np.float32)


def truth_of(sample: Sample) -> FlowTruth:
    assert isinstance(sample.truth, FlowTruth)
    return sample.truth


def chairs(root: Path, codes="1\n2\n1\n") -> dict[str, tuple[np.ndarray, ...]]:
    made = {}
    for number in ("00001", "00002", "00007"):
        flow = some_flow()
        frames = [picture(root / "data" / f"{number}_img{i}.ppm") for i in (1, 2)]
        flo(root / "data" / f"{number}_flow.flo", flow)
        made[number] = (*frames, flow)
    (root / "FlyingChairs_train_val.txt").write_text(codes)
    return made


def test_chairs_are_split_by_the_lines_of_their_list_and_read_exactly(tmp_path):
    made = chairs(tmp_path)
    train, val = (open_set("flying_chairs", tmp_path, split) for split in ("train", "val"))
    assert [sample.name for sample in train] == ["data/00001_img1.ppm", "data/00007_img1.ppm"]
    assert [sample.name for sample in val] == ["data/00002_img1.ppm"]
    frame1, frame2, flow = made["00007"]
    np.testing.assert_array_equal(train[1].images, (frame1, frame2))
    np.testing.assert_array_equal(truth_of(train[1]).flow, flow)
    assert truth_of(train[1]).valid.all()
    assert truth_of(train[1]).occluded is None


def test_chairs_name_what_is_missing(tmp_path):
    chairs(tmp_path)
    (tmp_path / "data" / "00002_img2.ppm").unlink()
    with pytest.raises(DataError, match=r"00002_img2\.ppm is missing"):
        open_set("flying_chairs", tmp_path, "val")


@pytest.mark.parametrize(
    ("codes", "message"), [("1\n2\n", "2 lines, but .* 3 samples"), ("1\n3\n1\n", "not '3'")]
)
def test_chairs_refuse_a_list_that_does_not_fit_the_files(tmp_path, codes, message):
    chairs(tmp_path, codes)
    with pytest.raises(DataError, match=f"FlyingChairs_train_val.txt .*{message}"):
        open_set("flying_chairs", tmp_path, "train")


def test_flow_of_another_size_than_its_frames_is_refused(tmp_path):
    chairs(tmp_path)
    flo(tmp_path / "data" / "00002_flow.flo", some_flow((5, 6)))
    with pytest.raises(DataError, match=r"00002_img1\.ppm"):
        open_set("flying_chairs", tmp_path, "val")[0]


def test_a_cut_off_flow_file_is_refused(tmp_path):
    chairs(tmp_path)
    path = tmp_path / "data" / "00002_flow.flo"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"00002_flow\.flo should hold 6 x 4"):
        open_set("flying_chairs", tmp_path, "val")[0]


def sintel(root: Path) -> dict[str, np.ndarray]:
    made = {}
    for scene, count in (("bamboo_2", 2), ("alley_1", 3)):
        for number in range(1, count + 1):
            place = f"{scene}/frame_{number:04d}"
            for render_pass in ("clean", "final"):
                path = root / "training" / render_pass / f"{place}.png"
                made[f"{render_pass}/{place}"] = picture(path)
            if number < count:
                made[place] = some_flow()
                flo(root / "training/flow" / f"{place}.flo", made[place])
                for kind in ("occlusions", "invalid"):
                    made[f"{kind}/{place}"] = RANDOM.random((4, 6)) < 0.5
                    write_mask(root / "training" / kind / f"{place}.png", made[f"{kind}/{place}"])
    return made


@pytest.mark.parametrize("render_pass", ["clean", "final"])
def test_sintel_pairs_frames_within_a_scene_and_masks_what_is_not_known(tmp_path, render_pass):
    made = sintel(tmp_path)
    samples = open_set(f"sintel_{render_pass}", tmp_path, "train")
    places = ["alley_1/frame_0001", "alley_1/frame_0002", "bamboo_2/frame_0001"]
    assert [s.name for s in samples] == [f"training/{render_pass}/{p}.png" for p in places]
    second, truth = samples[1], truth_of(samples[1])
    np.testing.assert_array_equal(second.images[0], made[f"{render_pass}/{places[1]}"])
    np.testing.assert_array_equal(second.images[1], made[f"{render_pass}/alley_1/frame_0003"])
    np.testing.assert_array_equal(truth.flow, made[places[1]])
    np.testing.assert_array_equal(truth.valid, ~made[f"invalid/{places[1]}"])
    np.testing.assert_array_equal(truth.occluded, made[f"occlusions/{places[1]}"])


def test_sintel_without_its_mask_folders_knows_invalid_flow_by_its_size(tmp_path):
    made = sintel(tmp_path)
    for kind in ("occlusions", "invalid"):
        shutil.rmtree(tmp_path / "training" / kind)
    flow = made["alley_1/frame_0001"].copy()
    flow[:, 1, 2] = 1.7e9
    flo(tmp_path / "training/flow/alley_1/frame_0001.flo", flow)
    truth = truth_of(open_set("sintel_clean", tmp_path, "train")[0])
    assert truth.occluded is None
    assert np.argwhere(~truth.valid).tolist() == [[1, 2]]
    assert truth.flow[:, 1, 2].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("training/clean/alley_1/frame_0002.png", "alley_1 has no frame between"),
        ("training/flow/bamboo_2/frame_0001.flo", "bamboo_2/frame_0001.flo is missing"),
    ],
)
def test_sintel_names_a_lost_frame_or_flow(tmp_path, lost, message):
    sintel(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(DataError, match=message):
        open_set("sintel_clean", tmp_path, "train")


def test_sintel_names_a_mask_of_the_wrong_size_or_kind(tmp_path):
    sintel(tmp_path)
    path = tmp_path / "training/occlusions/alley_1/frame_0001.png"
    write_mask(path, np.ones((4, 5), dtype=bool))
    with pytest.raises(DataError, match=r"occlusions/alley_1/frame_0001\.png is 5 x 4 px"):
        open_set("sintel_final", tmp_path, "train")[0]
    path.unlink()
    with pytest.raises(DataError, match=r"occlusions/alley_1/frame_0001\.png"):
        open_set("sintel_final", tmp_path, "train")[0]


def kitti_set(root: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    known = np.zeros((4, 6), dtype=bool)
    known[1:, 1:] = True
    inside = known.copy()
    inside[:, 4:] = False
    flows = []
    for number in ("000000", "000003"):
        flows.append(some_flow())
        for frame in (10, 11):
            picture(root / "training/image_2" / f"{number}_{frame}.png")
        kitti(root / "training/flow_occ" / f"{number}_10.png", flows[-1], known)
        kitti(root / "training/flow_noc" / f"{number}_10.png", flows[-1], inside)
    return flows[1], known, inside


def test_kitti_flow_is_in_px_where_measured_and_occluded_where_it_leaves_the_picture(tmp_path):
    flow, known, inside = kitti_set(tmp_path)
    samples = open_set("kitti_flow", tmp_path, "train")
    expected = [f"training/image_2/{number}_10.png" for number in ("000000", "000003")]
    assert [sample.name for sample in samples] == expected
    truth = truth_of(samples[1])
    np.testing.assert_array_equal(truth.valid, known)
    np.testing.assert_array_equal(truth.flow, np.where(known, flow, 0))
    np.testing.assert_array_equal(truth.occluded, known & ~inside)
    only_inside = truth_of(open_set("kitti_flow", tmp_path, "train_noc")[1])
    np.testing.assert_array_equal(only_inside.valid, inside)


def test_kitti_flow_names_lost_files_and_files_of_another_kind(tmp_path):
    kitti_set(tmp_path)
    grey = tmp_path / "training/flow_occ/000000_10.png"
    Image.fromarray(np.zeros((4, 6), dtype=np.uint16)).save(grey)
    with pytest.raises(DataError, match=r"flow_occ/000000_10\.png should be a 16-bit RGB PNG"):
        open_set("kitti_flow", tmp_path, "train")[0]
    (tmp_path / "training/image_2/000003_11.png").unlink()
    with pytest.raises(DataError, match=r"image_2/000003_11\.png is missing"):
        open_set("kitti_flow", tmp_path, "train")


@pytest.mark.parametrize("name", [name for name, info in SETS.items() if info.task == "flow"])
def test_an_empty_folder_or_an_unknown_split_is_a_clear_error(tmp_path, name):
    with pytest.raises(DataError, match=str(tmp_path)):
        open_set(name, tmp_path, "train")
    with pytest.raises(DataError, match="has no split 'test'"):
        open_set(name, tmp_path, "test")


def warp_error(frame1: np.ndarray, frame2: np.ndarray, flow: np.ndarray) -> tuple[float, float]:
    """Mean difference of the frames as they are, and with each pixel fetched where it went."""
    rows, columns = np.indices(flow.shape[1:])
    row = np.clip(np.rint(rows + flow[1]), 0, flow.shape[1] - 1).astype(int)
    column = np.clip(np.rint(columns + flow[0]), 0, flow.shape[2] - 1).astype(int)
    before, after = frame1.astype(float), frame2.astype(float)
    return np.abs(before - after).mean(), np.abs(before - after[row, column]).mean()


def test_real_chairs_move_as_their_flow_says():
    root = SHARED / "datasets" / "flying_chairs"
    if not root.is_dir():
        pytest.skip(f"{root} with real samples is not there")
    for split in ("train", "val"):
        (sample,) = open_set("flying_chairs", root, split)
        assert truth_of(sample).flow.shape == (2, 384, 512)
        still, moved = warp_error(sample.images[0], sample.images[1], truth_of(sample).flow)
        assert moved < 0.7 * still


@pytest.mark.parametrize(
    ("name", "read", "ending"),
    [
        ("mbflow_dimetrodon", read_flo, "flo"),
        ("mbflow_rubberwhale", read_flo, "flo"),
        ("stereo_teddy", read_kitti_flow, "png"),
    ],
)
def test_real_flow_holds_where_it_is_known(name, read, ending):
    folder = SHARED / "real" / "flow"
    if not folder.is_dir():
        pytest.skip(f"{folder} with real samples is not there")
    flow, valid = read(folder / f"{name}_gt.{ending}")
    frames = [read_picture(folder / f"{name}_{i}.png") for i in (0, 1)]
    assert 0.5 < valid.mean() < 1
    still, moved = warp_error(frames[0], frames[1], flow)
    assert moved < 0.9 * still
