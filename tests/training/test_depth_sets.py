"""The depth sets' readers, on small files in the published formats and on a real sample."""

import csv
import math
import pickle
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import png
import pytest
from PIL import Image
from scipy.io import savemat

from tests.support.set_files import SHARED, write_picture
from training.data import hypersim_raw
from training.data.files import read_grey, read_picture, read_png16, read_png16_rgb
from training.data.sample import DataError, DepthTruth, Sample
from training.data.sets import SETS, open_set

HEIGHT, WIDTH = 6, 8
RANDOM = np.random.default_rng(5)


def picture(path: Path, height: int = HEIGHT, width: int = WIDTH, **how) -> np.ndarray:
    return write_picture(path, RANDOM, (height, width), **how)


def png16(path: Path, values: np.ndarray) -> None:
    """A 16-bit grey PNG, written by another library than the one that reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = values.shape
    with path.open("wb") as file:
        png.Writer(width, height, greyscale=True, bitdepth=16).write(file, values.tolist())


def depth_of(sample: Sample) -> DepthTruth:
    assert isinstance(sample.truth, DepthTruth)
    assert sample.truth.depth.dtype == np.float32
    assert sample.truth.valid.dtype == np.bool_
    return sample.truth


def expect(sample: Sample, pixels: np.ndarray, metres: np.ndarray, valid: np.ndarray) -> None:
    """The sample shows these pixels, and this depth exactly where it is valid, else 0."""
    (image,) = sample.images
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, pixels)
    truth = depth_of(sample)
    np.testing.assert_array_equal(truth.valid, valid)
    np.testing.assert_allclose(truth.depth, np.where(valid, metres, 0), rtol=1e-6)
    assert valid.any()
    assert not valid.all()


def names(samples: Sequence[Sample]) -> list[str]:
    return [sample.name for sample in samples]


def raw_depth(*special: int) -> np.ndarray:
    values = RANDOM.integers(500, 7900, (HEIGHT, WIDTH)).astype(np.uint16)
    values.flat[: len(special)] = special
    return values


# Hypersim, prepared


def hypersim_frame(root: Path, name: str, values: np.ndarray) -> np.ndarray:
    scene, frame = name.split("/")
    png16(root / scene / f"depth_plane_{frame}.png", values)
    return picture(root / scene / f"rgb_{frame}.png")


def test_hypersim(tmp_path: Path):
    values = raw_depth(0, 65_001, 64_999)
    pixels = hypersim_frame(tmp_path / "val", "ai_001_002/cam_00_fr0003", values)
    hypersim_frame(tmp_path / "train", "ai_001_001/cam_00_fr0000", values)
    (sample,) = open_set("hypersim", tmp_path, "val")
    assert sample.name == "val/ai_001_002/rgb_cam_00_fr0003.png"
    expect(sample, pixels, values / 1000, (values > 0) & (values < 65_000))


@pytest.mark.parametrize("where", ["", "val"])
def test_hypersim_takes_the_listed_frames_in_the_lists_order(tmp_path: Path, where: str):
    frames = [f"ai_001_002/cam_00_fr{i:04d}" for i in range(4)]
    for frame in frames:
        hypersim_frame(tmp_path / "val", frame, raw_depth())
    lines = [
        f"ai_001_002/rgb_cam_00_fr{i:04d}.png ai_001_002/depth_plane_cam_00_fr{i:04d}.png"
        for i in (2, 0)
    ]
    (tmp_path / where / "filename_list_val_filtered.txt").write_text("\n".join(lines) + "\n\n")
    samples = open_set("hypersim", tmp_path, "val")
    assert names(samples) == [f"val/ai_001_002/rgb_cam_00_fr{i:04d}.png" for i in (2, 0)]


def test_a_list_with_a_short_line_is_refused(tmp_path: Path):
    (tmp_path / "val").mkdir()
    (tmp_path / "filename_list_val_filtered.txt").write_text("a b\nonly\n")
    with pytest.raises(DataError, match=r"val_filtered\.txt: entry 2 is 'only', 2 paths"):
        open_set("hypersim", tmp_path, "val")


def test_the_real_hypersim_sample():
    root = SHARED / "datasets" / "hypersim"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    (sample,) = open_set("hypersim", root, "val")
    truth = depth_of(sample)
    assert sample.images[0].shape == (768, 1024, 3)
    assert truth.valid.mean() > 0.99
    assert truth.depth[truth.valid].min() > 0.3
    assert 1 < np.median(truth.depth) < truth.depth.max() < 20  # a room, in metres


# Hypersim, raw


def hdf5(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("dataset", data=values, compression="gzip")


def write_raw(root: Path, scene: str, camera: str, frame: int, **arrays: np.ndarray) -> None:
    images = root / scene / "images"
    folder = images / f"scene_{camera}_geometry_hdf5"
    hdf5(images / f"scene_{camera}_final_hdf5/frame.{frame:04d}.color.hdf5", arrays["color"])
    hdf5(folder / f"frame.{frame:04d}.depth_meters.hdf5", arrays["distance"])
    hdf5(folder / f"frame.{frame:04d}.render_entity_id.hdf5", arrays["entity"])


def flat_wall(metres: float) -> dict[str, np.ndarray]:
    """A wall `metres` in front of the camera, with a hole, as Hypersim would render it."""
    x = np.arange(1024) - 511.5
    y = np.arange(768)[:, None] - 383.5
    distance = metres * np.sqrt(x**2 + y**2 + 886.81**2) / 886.81
    entity = np.full((768, 1024), 7, np.int32)
    entity[:100, :100] = -1
    distance[:100, :100] = np.nan
    color = np.linspace(0, 3, 768 * 1024 * 3).reshape(768, 1024, 3)
    return {
        "color": color.astype(np.float16),
        "distance": distance.astype(np.float32),
        "entity": entity,
    }


def test_hypersim_raw(tmp_path: Path):
    wall = flat_wall(4.25)
    write_raw(tmp_path, "ai_001_001", "cam_01", 12, **wall)
    (sample,) = open_set("hypersim_raw", tmp_path, "all")
    assert sample.name == "ai_001_001/images/scene_cam_01_final_hdf5/frame.0012.color.hdf5"
    truth = depth_of(sample)
    np.testing.assert_array_equal(truth.valid, wall["entity"] == 7)
    np.testing.assert_allclose(truth.depth[truth.valid], 4.25, rtol=1e-6)
    assert (truth.depth[:100, :100] == 0).all()
    color = wall["color"].astype(np.float64)
    brightness = color @ (0.3, 0.59, 0.11)
    ninetieth = np.percentile(brightness[truth.valid], 90)
    mapped = (color * 0.8**2.2 / ninetieth) ** (1 / 2.2)
    expected = 255 * np.clip(mapped, 0, 1)
    np.testing.assert_allclose(sample.images[0], expected, atol=1.01)  # rounded down


def test_a_pixel_as_bright_as_the_ninetieth_percentile_becomes_four_fifths():
    color = np.ones((768, 1024, 3), np.float32) * np.float32(0.37)
    color[:50] = 100.0  # fewer than a tenth
    color[60, 60] = np.nan
    known = np.ones((768, 1024), bool)
    mapped = hypersim_raw.tone_mapped(color, known)
    assert (mapped[100] == int(0.8 * 255)).all()
    assert (mapped[:50] == 255).all()
    assert (mapped[60, 60] == 0).all()
    assert (hypersim_raw.tone_mapped(color * 0, known) == 0).all()
    nothing_known = hypersim_raw.tone_mapped(color, ~known)
    assert (nothing_known[100] == int(0.37 ** (1 / 2.2) * 255)).all()


def write_splits(root: Path, *rows: tuple[str, str, int, str, str]) -> None:
    header = ("scene_name", "camera_name", "frame_id", "included_in_public_release")
    with (root / hypersim_raw.SPLITS_FILE).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((*header, "exclude_reason", "split_partition_name"))
        writer.writerows((*row[:4], "", row[4]) for row in rows)


def test_hypersim_raw_splits_leave_out_what_was_not_released(tmp_path: Path):
    write_raw(tmp_path, "ai_001_001", "cam_00", 5, **flat_wall(2))
    write_splits(
        tmp_path,
        ("ai_001_001", "cam_00", 4, "False", ""),
        ("ai_001_001", "cam_00", 5, "True", "val"),
        ("ai_001_002", "cam_00", 6, "True", "train"),
    )
    assert names(open_set("hypersim_raw", tmp_path, "val")) == [
        "ai_001_001/images/scene_cam_00_final_hdf5/frame.0005.color.hdf5"
    ]
    absent = open_set("hypersim_raw", tmp_path, "train")
    assert len(absent) == 1
    with pytest.raises(DataError, match=r"ai_001_002.*frame\.0006\.color\.hdf5 cannot be read"):
        absent[0]
    with pytest.raises(DataError, match="names no frame of the split 'test'"):
        open_set("hypersim_raw", tmp_path, "test")
    (tmp_path / hypersim_raw.SPLITS_FILE).write_text("scene_name,camera_name\na,b\n")
    with pytest.raises(DataError, match="has no column frame_id, included_in_public_release"):
        open_set("hypersim_raw", tmp_path, "val")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"color": np.zeros((768, 1024, 3), np.uint8)}, r"color\.hdf5 holds uint8 .* floats"),
        ({"distance": np.zeros((384, 512), np.float32)}, r"depth_meters\.hdf5 .*\(384, 512\)"),
        ({"entity": np.zeros((768, 1024), np.int32)}, r"render_entity_id\.hdf5 holds 0"),
    ],
)
def test_wrong_arrays_of_hypersim_are_named(
    tmp_path: Path, wrong: dict[str, np.ndarray], message: str
):
    write_raw(tmp_path, "ai_001_001", "cam_00", 0, **(flat_wall(2) | wrong))
    with pytest.raises(DataError, match=message):
        open_set("hypersim_raw", tmp_path, "all")[0]


# Virtual KITTI 2


@pytest.mark.parametrize("apart", [False, True])
def test_virtual_kitti(tmp_path: Path, apart: bool):
    values = raw_depth(65_535, 8000, 7999)
    rgb, depth = (tmp_path / "rgb", tmp_path / "depth") if apart else (tmp_path, tmp_path)
    for frames in ("Scene01/clone", "Scene01/fog", "Scene20/15-deg-left"):
        png16(depth / frames / "frames/depth/Camera_1/depth_00007.png", values)
        pixels = picture(rgb / frames / "frames/rgb/Camera_1/rgb_00007.jpg")
    prefix = "rgb/" if apart else ""
    name = "frames/rgb/Camera_1/rgb_00007.jpg"
    assert names(open_set("virtual_kitti", tmp_path, "val")) == [f"{prefix}Scene01/clone/{name}"]
    (sample,) = open_set("virtual_kitti", tmp_path, "train")
    assert sample.name == f"{prefix}Scene20/15-deg-left/{name}"
    expect(sample, pixels, values / 100, values < 8000)


# NYU Depth V2


def test_nyu_pictures(tmp_path: Path):
    values = raw_depth(0, 10_000, 9999)
    pixels = picture(tmp_path / "test/kitchen_0004/rgb_0001.png")
    png16(tmp_path / "test/kitchen_0004/depth_0001.png", values)
    png16(tmp_path / "test/kitchen_0004/filled_0001.png", values + 1)
    (sample,) = open_set("nyu_v2", tmp_path, "test")
    assert sample.name == "test/kitchen_0004/rgb_0001.png"
    expect(sample, pixels, values / 1000, (values > 0) & (values < 10_000))


def test_the_official_nyu_file(tmp_path: Path):
    pixels = RANDOM.integers(0, 256, (3, HEIGHT, WIDTH, 3), dtype=np.uint8)
    metres = RANDOM.uniform(0.5, 9, (3, HEIGHT, WIDTH)).astype(np.float32)
    metres[:, 0, :2] = 0, 10.5
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = pixels.transpose(0, 3, 2, 1)
        file["rawDepths"] = metres.transpose(0, 2, 1)
    splits = {"trainNdxs": np.array([[2]]), "testNdxs": np.array([[1], [3]])}
    savemat(tmp_path / "splits.mat", splits)
    test = open_set("nyu_v2", tmp_path, "test")
    assert names(test) == ["nyu_depth_v2_labeled.mat/0001", "nyu_depth_v2_labeled.mat/0003"]
    valid = (metres > 0) & (metres < 10)
    expect(test[1], pixels[2], metres[2], valid[2])
    expect(open_set("nyu_v2", tmp_path, "train")[0], pixels[1], metres[1], valid[1])
    savemat(tmp_path / "splits.mat", {"testNdxs": np.array([[4]])})
    with pytest.raises(DataError, match=r"labeled\.mat has no frame 4"):
        open_set("nyu_v2", tmp_path, "test")[0]
    with pytest.raises(DataError, match=r"splits\.mat cannot be read"):
        open_set("nyu_v2", tmp_path, "train")


# KITTI, Eigen's split

DRIVE = "2011_09_26_drive_0002_sync"


def kitti_names(number: int) -> tuple[str, str]:
    name = f"{number:010d}.png"
    truth = f"{DRIVE}/proj_depth/groundtruth/image_02/{name}"
    return f"2011_09_26/{DRIVE}/image_02/data/{name}", truth


@pytest.mark.parametrize("below", ["", "val"])
def test_kitti(tmp_path: Path, below: str):
    values = np.where(RANDOM.random((HEIGHT, WIDTH)) < 0.3, raw_depth(), 0)
    values.flat[:3] = 80 * 256, 80 * 256 - 1, 256
    pixels = [picture(tmp_path / kitti_names(number)[0]) for number in range(3)]
    for number in (0, 2):
        png16(tmp_path / below / kitti_names(number)[1], values)
    lines = [
        f"{kitti_names(2)[0]} {kitti_names(2)[1]} 721.5377",
        f"{kitti_names(1)[0]} None 721.5377",
    ]
    (tmp_path / "eigen_test_files_with_gt.txt").write_text("\n".join(lines))
    (sample,) = open_set("kitti_eigen", tmp_path, "test")
    assert sample.name == kitti_names(2)[0]
    expect(sample, pixels[2], values / 256, (values > 0) & (values < 80 * 256))
    pairs = open_set("kitti_eigen", tmp_path, "all")
    assert names(pairs) == [kitti_names(0)[0], kitti_names(2)[0]]
    with pytest.raises(DataError, match=r"eigen_train_files_with_gt\.txt is missing"):
        open_set("kitti_eigen", tmp_path, "train")


# ETH3D


@pytest.mark.parametrize("apart", [False, True])
def test_eth3d(tmp_path: Path, apart: bool):
    metres = RANDOM.uniform(1, 40, (HEIGHT, WIDTH)).astype("<f4")
    metres[2, 3:5] = np.inf
    rgb = tmp_path / "rgb" if apart else tmp_path
    depth = tmp_path / "depth/office_dslr_depth" if apart else tmp_path
    pixels = picture(rgb / "office/images/dslr_images/DSC_0219.JPG")
    truth = depth / "office/ground_truth_depth/dslr_images/DSC_0219.JPG"
    truth.parent.mkdir(parents=True, exist_ok=True)
    truth.write_bytes(metres.tobytes())
    samples = open_set("eth3d", tmp_path, "train")
    name = "office/images/dslr_images/DSC_0219.JPG"
    assert names(samples) == [f"rgb/{name}" if apart else name]
    expect(samples[0], pixels, metres, np.isfinite(metres))
    line = f"{samples[0].name} {truth.relative_to(tmp_path).as_posix()}\n"
    (tmp_path / "eth3d_filename_list.txt").write_text(line * 2)
    assert len(open_set("eth3d", tmp_path, "train")) == 2
    truth.write_bytes(metres.tobytes()[:-4])
    with pytest.raises(DataError, match=r"DSC_0219\.JPG holds 188 bytes, 8 x 6 float32 are 192"):
        samples[0]


# ScanNet


def test_scannet(tmp_path: Path):
    values = raw_depth(0, 10_000)
    for scene in ("scene0001_00", "scene0002_01"):
        pixels = picture(tmp_path / "scans" / scene / "color/100.jpg")
        png16(tmp_path / "scans" / scene / "depth/100.png", values)
    (tmp_path / "scannetv2_val.txt").write_text("scene0002_01\nscene0300_00\n")
    (sample,) = open_set("scannet", tmp_path, "val")
    assert sample.name == "scans/scene0002_01/color/100.jpg"
    expect(sample, pixels, values / 1000, (values > 0) & (values < 10_000))
    assert len(open_set("scannet", tmp_path, "all")) == 2
    sampled = tmp_path / "scannet_val_sampled_list_800_1.txt"
    sampled.write_text("scene0001_00/color/100.jpg scene0001_00/depth/100.png\n")
    assert names(open_set("scannet", tmp_path, "val")) == ["scans/scene0001_00/color/100.jpg"]
    with pytest.raises(DataError, match=r"scannetv2_train\.txt cannot be read"):
        open_set("scannet", tmp_path, "train")


def test_scannet_pictures_become_as_small_as_their_depth(tmp_path: Path):
    large = np.zeros((968, 1296, 3), np.uint8)
    large[:, 648:] = 200  # the right half is bright
    for part in ("color", "depth"):
        (tmp_path / "scene0001_00" / part).mkdir(parents=True)
    Image.fromarray(large).save(tmp_path / "scene0001_00/color/0.jpg", quality=95)
    values = np.full((480, 640), 1500, np.uint16)
    png16(tmp_path / "scene0001_00/depth/0.png", values)
    (sample,) = open_set("scannet", tmp_path, "all")
    image = sample.images[0].astype(int)
    assert image.shape == (480, 640, 3)
    assert image[:, :315].max() < 20
    assert image[:, 325:].min() > 180
    picture(tmp_path / "scene0001_00/color/0.jpg", 480, 800)
    with pytest.raises(DataError, match=r"color/0\.jpg is 800 x 480 px, its depth 640 x 480"):
        open_set("scannet", tmp_path, "all")[0]


# DIODE


def write_diode(folder: Path, name: str, depth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    pixels = picture(folder / f"{name}.png")
    np.save(folder / f"{name}_depth.npy", depth)
    np.save(folder / f"{name}_depth_mask.npy", mask)
    return pixels


@pytest.mark.parametrize("below", ["", "val"])
def test_diode(tmp_path: Path, below: str):
    depth = RANDOM.uniform(0.1, 400, (HEIGHT, WIDTH, 1)).astype(np.float32)
    mask = (RANDOM.random((HEIGHT, WIDTH)) < 0.7).astype(np.float64)
    mask[0, :2] = 1, 0
    depth[0, 0] = 390.0  # beyond the range, but the mask says that it is valid
    base = tmp_path / below
    write_diode(base / "outdoor/scene_00022/scan_00193", "b", depth, mask)
    pixels = write_diode(base / "indoors/scene_00021/scan_00189", "a", depth, mask)
    sample = open_set("diode", tmp_path, "val_indoor")[0]
    assert sample.name == f"{below}/indoors/scene_00021/scan_00189/a.png".lstrip("/")
    expect(sample, pixels, depth[:, :, 0], mask == 1)
    assert [len(open_set("diode", tmp_path, split)) for split in ("val", "val_outdoor")] == [2, 1]


def test_wrong_arrays_of_diode_are_named(tmp_path: Path):
    folder = tmp_path / "val/indoors/scene_00021/scan_00189"
    depth, mask = np.ones((HEIGHT, WIDTH, 1), np.float32), np.ones((HEIGHT, WIDTH))
    write_diode(folder, "a", depth, mask * 2)
    samples = open_set("diode", tmp_path, "val")
    with pytest.raises(DataError, match=r"a_depth_mask\.npy should hold 0 and 1"):
        samples[0]
    np.save(folder / "a_depth.npy", np.ones((HEIGHT, WIDTH, 3)))
    with pytest.raises(DataError, match=r"a_depth\.npy holds float64 \(6, 8, 3\)"):
        samples[0]
    (folder / "a_depth.npy").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(DataError, match=r"a_depth\.npy cannot be read"):
        samples[0]


# All of them


@pytest.mark.parametrize("name", [name for name, info in SETS.items() if info.task == "depth"])
def test_an_empty_folder_is_refused_by_every_split(tmp_path: Path, name: str):
    for split in SETS[name].splits:
        with pytest.raises(DataError, match=str(tmp_path)):
            open_set(name, tmp_path, split)


@pytest.mark.parametrize("info", SETS.values(), ids=SETS)
def test_rows_of_the_table_are_whole(info):
    assert set(info.counts) <= set(info.splits)
    assert info.splits
    assert info.licence
    assert info.layout
    if info.task == "depth":
        low, high = info.depth_range
        assert 0 < low < 1 < high
    else:
        assert info.depth_range is None


def test_unknown_names_are_answered_with_the_known(tmp_path: Path):
    with pytest.raises(DataError, match="no data set is called 'nyu'; there are hypersim, "):
        open_set("nyu", tmp_path, "test")
    with pytest.raises(DataError, match="nyu_v2 has no split 'val'; there are train, test"):
        open_set("nyu_v2", tmp_path, "val")
    with pytest.raises(DataError, match="absent is not a folder; it should hold the data set"):
        open_set("nyu_v2", tmp_path / "absent", "test")


def test_samples_are_read_when_they_are_asked_for(tmp_path: Path):
    for number in range(5):
        hypersim_frame(tmp_path / "val", f"ai_001_002/cam_00_fr{number:04d}", raw_depth())
    samples = open_set("hypersim", tmp_path, "val")
    (tmp_path / "val/ai_001_002/rgb_cam_00_fr0001.png").unlink()
    assert len(samples) == 5
    assert names(samples[2::2]) == [samples[2].name, samples[4].name]
    assert samples[-1].name == samples[4].name
    with pytest.raises(DataError, match=r"rgb_cam_00_fr0001\.png cannot be read"):
        samples[1]
    again = pickle.loads(pickle.dumps(samples))  # a loader's processes receive it so
    np.testing.assert_array_equal(again[0].images[0], samples[0].images[0])


def test_wrong_pictures_are_named(tmp_path: Path):
    hypersim_frame(tmp_path / "val", "ai_001_002/cam_00_fr0000", raw_depth())
    picture(tmp_path / "val/ai_001_002/rgb_cam_00_fr0000.png", HEIGHT, WIDTH + 1)
    samples = open_set("hypersim", tmp_path, "val")
    with pytest.raises(DataError, match=r"fr0000\.png: the picture is 9 x 6 px, its answer 8 x 6"):
        samples[0]
    depth = tmp_path / "val/ai_001_002/depth_plane_cam_00_fr0000.png"
    picture(depth)
    with pytest.raises(DataError, match=r"depth_plane.*16-bit grey PNG, its mode is RGB"):
        samples[0]
    depth.write_bytes(depth.read_bytes()[:80])
    with pytest.raises(DataError, match=r"depth_plane.*cannot be read|depth_plane.*16-bit"):
        samples[0]


# The formats that several sets share


def test_sixteen_bits_are_read_whole(tmp_path: Path):
    grey = RANDOM.integers(0, 2**16, (HEIGHT, WIDTH), dtype=np.uint16)
    grey.flat[:2] = 0, 2**16 - 1
    png16(tmp_path / "grey.png", grey)
    np.testing.assert_array_equal(read_png16(tmp_path / "grey.png"), grey)
    rgb = RANDOM.integers(0, 2**16, (HEIGHT, WIDTH, 3), dtype=np.uint16)
    for interlace in (False, True):
        path = tmp_path / f"rgb{interlace}.png"
        with path.open("wb") as file:
            writer = png.Writer(WIDTH, HEIGHT, greyscale=False, bitdepth=16, interlace=interlace)
            writer.write(file, rgb.reshape(HEIGHT, -1).tolist())
        read = read_png16_rgb(path)
        assert read.dtype == np.uint16
        np.testing.assert_array_equal(read, rgb)
    with pytest.raises(DataError, match=r"grey\.png should be a 16-bit RGB PNG"):
        read_png16_rgb(tmp_path / "grey.png")
    with pytest.raises(DataError, match=r"grey\.png should be an 8-bit picture"):
        read_picture(tmp_path / "grey.png")
    with pytest.raises(DataError, match=r"rgbTrue\.png should be an 8-bit grey picture"):
        read_grey(tmp_path / "rgbTrue.png")


def test_depth_in_a_turned_photograph_stays_with_its_pixels(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer would turn it by a quarter
    stored = picture(tmp_path / "a.jpg", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.jpg"), stored)
    assert stored.shape == (HEIGHT, WIDTH, 3)


def test_ray_distance_is_longer_than_depth_by_the_angle():
    ones = np.ones((768, 1024), np.float32)
    depth = hypersim_raw.plane_depth(ones)
    corner = math.hypot(511.5, 383.5)
    assert depth[0, 0] == pytest.approx(math.cos(math.atan(corner / 886.81)), rel=1e-6)
    assert depth[383, 511] == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(depth, depth[::-1, ::-1], rtol=1e-6)
