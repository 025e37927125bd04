"""The amodal sets' readers, on tiny files in the published formats and on real samples."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.support.set_files import SHARED, write_mask, write_picture
from training.data.__main__ import main
from training.data.coco_masks import RunLengths, draw_polygon, draw_run_lengths, uncompress
from training.data.mp3d_pickle import convert_mp3d
from training.data.sample import AmodalTruth, DataError, Sample
from training.data.sets import open_set

RANDOM = np.random.default_rng(4)
SIZE = (9, 12)
SQUARE = [2.0, 1.0, 8.0, 1.0, 8.0, 7.0, 2.0, 7.0]  # columns 2 to 7, rows 1 to 6


def picture(path: Path, size=SIZE) -> np.ndarray:
    return write_picture(path, RANDOM, size)


def truth_of(sample: Sample) -> AmodalTruth:
    assert isinstance(sample.truth, AmodalTruth)
    return sample.truth


def counted(values: np.ndarray) -> list[int]:
    """Run lengths of a mask down its columns, pixel by pixel."""
    counts, current = [0], False
    for pixel in values.T.ravel().tolist():
        if pixel != current:
            counts.append(0)
            current = pixel
        counts[-1] += 1
    return counts


def compressed(counts: list[int]) -> str:
    """The text form, after the description in the public API (`rleToString`)."""
    text = ""
    for i, count in enumerate(counts):
        left = count - (counts[i - 2] if i > 2 else 0)
        more = True
        while more:
            digit = left & 31
            left >>= 5
            more = left != -1 if digit & 16 else left != 0
            text += chr((digit | 32 if more else digit) + 48)
    return text


def runs(values: np.ndarray, text=True) -> dict[str, object]:
    counts = counted(values)
    return {"size": list(values.shape), "counts": compressed(counts) if text else counts}


def half_hidden() -> tuple[np.ndarray, np.ndarray]:
    """The square's mask, and what is seen of it."""
    whole = np.zeros(SIZE, dtype=bool)
    whole[1:7, 2:8] = True
    seen = whole.copy()
    seen[:, 5:] = False
    return whole, seen


def gestalt(root: Path, ids=("7", "12", "1", "30")) -> dict[str, tuple[np.ndarray, ...]]:
    made: dict[str, tuple[np.ndarray, ...]] = {}
    for name in ids:
        whole, seen = RANDOM.random((2, *SIZE)) < 0.5
        write_mask(root / "whole_mask" / f"{name}_whole_mask.png", whole)
        write_mask(root / "visible_object_mask" / f"{name}_visible_mask.png", seen)
        look = picture(root / "whole" / f"{name}_whole.png")
        made[name] = (picture(root / "occlusion" / f"{name}_occlusion.png"), seen, whole, look)
    return made


def test_pix2gestalt_pairs_ids_and_keeps_the_last_percent_for_validation(tmp_path):
    made = gestalt(tmp_path)
    train, val = (open_set("pix2gestalt", tmp_path, split) for split in ("train", "val"))
    # "_" is behind the digits, so 12_occlusion.png is before 1_occlusion.png.
    assert [s.name for s in train] == [f"occlusion/{i}_occlusion.png" for i in ("12", "1", "30")]
    assert [s.name for s in val] == ["occlusion/7_occlusion.png"]
    image, seen, whole, look = made["1"]
    truth = truth_of(train[1])
    np.testing.assert_array_equal(train[1].images, (image,))
    np.testing.assert_array_equal(truth.visible, seen)
    np.testing.assert_array_equal(truth.amodal, whole)
    np.testing.assert_array_equal(truth.whole, look)


@pytest.mark.parametrize(
    "lost", ["whole/12_whole.png", "occlusion/12_occlusion.png", "whole_mask/12_whole_mask.png"]
)
def test_pix2gestalt_names_ids_that_a_folder_lacks(tmp_path, lost):
    gestalt(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(DataError, match=f"{Path(lost).parent} has no file of ID 12,"):
        open_set("pix2gestalt", tmp_path, "train")


def test_pix2gestalt_refuses_masks_of_another_size(tmp_path):
    gestalt(tmp_path)
    write_mask(tmp_path / "whole_mask/7_whole_mask.png", np.ones((3, 3), dtype=bool))
    with pytest.raises(DataError, match="ID 7 differ in size"):
        open_set("pix2gestalt", tmp_path, "val")[0]


def test_real_pix2gestalt_objects_are_seen_in_part_and_alone_on_white():
    root = SHARED / "datasets" / "pix2gestalt"
    if not root.is_dir():
        pytest.skip(f"{root} with real samples is not there")
    samples = [s for split in ("train", "val") for s in open_set("pix2gestalt", root, split)]
    assert len(samples) == 4
    for sample in samples:
        truth = truth_of(sample)
        assert sample.images[0].shape == (256, 256, 3)
        assert truth.whole is not None
        assert 0 < truth.visible.sum() < truth.amodal.sum()
        assert truth.amodal[truth.visible].all()
        assert (truth.whole[~truth.amodal] == 255).mean() > 0.98
        same = np.abs(truth.whole[truth.visible].astype(int) - sample.images[0][truth.visible])
        assert same.mean() < 2  # what is seen looks the same in both pictures


def annotations(regions: list[dict[str, object]]) -> dict[str, object]:
    images = [
        {"id": 70, "file_name": "COCO_val2014_000000000070.jpg", "height": 3, "width": 4},
        {"id": 42, "file_name": "COCO_val2014_000000000042.png", "height": 9, "width": 12},
    ]
    return {"images": images, "annotations": [{"image_id": 42, "regions": regions}]}


def coco(root: Path, content: object) -> np.ndarray:
    path = root / "annotations" / "COCO_amodal_val2014.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return picture(root / "val2014" / "COCO_val2014_000000000042.png")


@pytest.mark.parametrize("text", [True, False])
def test_coco_a_regions_have_polygons_and_run_lengths(tmp_path, text):
    whole, seen = half_hidden()
    image = coco(
        tmp_path,
        annotations(
            [
                {"segmentation": SQUARE, "visible_mask": runs(seen, text), "isStuff": 0},
                {"segmentation": SQUARE, "isStuff": 1},
                {"segmentation": SQUARE, "visible_mask": runs(np.zeros_like(seen), text)},
            ]
        ),
    )
    samples = open_set("coco_a", tmp_path, "val")
    partly, all_seen, hidden = map(truth_of, samples)
    np.testing.assert_array_equal(samples[0].images, (image,))
    assert [sample.name.rpartition("#")[2] for sample in samples] == ["0.0", "0.1", "0.2"]
    assert samples[0].name.startswith("val2014/COCO_val2014_000000000042.png")
    for truth in (partly, all_seen, hidden):
        np.testing.assert_array_equal(truth.amodal, whole)
        assert truth.whole is None
    np.testing.assert_array_equal(partly.visible, seen)
    np.testing.assert_array_equal(all_seen.visible, whole)
    assert not hidden.visible.any()


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({}, "segmentation should be a flat list"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6]]}, "segmentation should be a flat list"),
        ({"segmentation": [1, 2, 3, 4, 5]}, "an x without its y"),
        ({"segmentation": {"size": [9], "counts": "4"}}, "size should be height and width"),
        ({"segmentation": {"size": [9, 12], "counts": 4}}, "counts should be a list of whole"),
    ],
)
def test_coco_a_names_the_field_that_is_wrong(tmp_path, region, message):
    coco(tmp_path, annotations([region]))
    with pytest.raises(DataError, match=rf"val2014.json: annotations\[0\].regions\[0\].*{message}"):
        open_set("coco_a", tmp_path, "val")


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({"segmentation": [1, 2, 3, 4]}, "fewer than three points"),
        ({"segmentation": [1, 2, float("nan"), 4, 5, 6]}, "not finite"),
        ({"segmentation": [0, 0, 1e9, 0, 1e9, 1e9]}, "px around"),
        ({"segmentation": {"size": [9, 13], "counts": "0"}}, "the picture has"),
        ({"segmentation": {"size": [9, 12], "counts": "4"}}, "do not add up to 9 x 12"),
        ({"segmentation": {"size": [9, 12], "counts": "~~"}}, "cannot be read at '~'"),
        ({"segmentation": {"size": [9, 12], "counts": "P"}}, "end within a number"),
        ({"segmentation": {"size": [9, 12], "counts": [-1, 109]}}, "do not add up"),
        ({"segmentation": {"size": [9, 12], "counts": [10**30]}}, "do not add up"),
    ],
)
def test_coco_a_refuses_masks_that_cannot_be_drawn(tmp_path, region, message):
    coco(tmp_path, annotations([region]))
    with pytest.raises(DataError, match=rf"annotations\[0\].regions\[0\]: .*{message}"):
        open_set("coco_a", tmp_path, "val")[0]


def test_coco_a_refuses_other_files_and_other_pictures(tmp_path):
    with pytest.raises(DataError, match=r"COCO_amodal_val2014\.json"):
        open_set("coco_a", tmp_path, "val")
    region: dict[str, object] = {"segmentation": SQUARE}
    coco(tmp_path, annotations([region]))
    picture(tmp_path / "val2014" / "COCO_val2014_000000000042.png", (5, 5))
    with pytest.raises(DataError, match=r"0042\.png#0.0 has"):
        open_set("coco_a", tmp_path, "val")[0]
    coco(tmp_path, {"images": [], "annotations": [{"image_id": 42, "regions": [region]}]})
    with pytest.raises(DataError, match="no image with the id 42"):
        open_set("coco_a", tmp_path, "val")
    outside = {"id": 42, "file_name": "../secret.png", "height": 9, "width": 12}
    coco(tmp_path, {"images": [outside], "annotations": []})
    with pytest.raises(DataError, match="outside of the pictures' folder"):
        open_set("coco_a", tmp_path, "val")


def test_run_lengths_survive_compression():
    for density in (0.0, 0.02, 0.5, 1.0):
        values = np.repeat(RANDOM.random((40, 17)) < density, 3, axis=1)
        counts = counted(values)
        assert list(uncompress(compressed(counts))) == counts
        for form in (compressed(counts), tuple(counts)):
            np.testing.assert_array_equal(draw_run_lengths(RunLengths(values.shape, form)), values)


def test_a_published_text_of_run_lengths_is_read():
    # pycocotools 2.0.11 of a 5 x 7 mask with rows 1 and 2 of columns 2 to 5 set
    expected = np.zeros((5, 7), dtype=bool)
    expected[1:3, 2:6] = True
    np.testing.assert_array_equal(draw_run_lengths(RunLengths((5, 7), ";23000004")), expected)


@pytest.mark.parametrize(
    ("points", "text"),
    [  # pycocotools 2.0.11
        ([1, 1, 6.5, 2, 4, 7.2, 3, 3], "c0183N0ONf1"),
        ([-3, 2, 5, -4, 14, 8, 2, 11], "081g10YN1O1O2N"),
        ([2, 2, 2, 2, 9, 2, 9, 6, 2, 6, 2, 2], "d04500000000000i0"),
        ([0, 0, 11, 8, 11, 0, 0, 8], "082N2N1O2O90F101N2N28"),
    ],
)
def test_polygons_are_drawn_as_the_public_tools_draw_them(points, text):
    drawn = draw_polygon(np.array(points, dtype=float).reshape(-1, 2), SIZE)
    np.testing.assert_array_equal(drawn, draw_run_lengths(RunLengths(SIZE, text)))


def mp3d(path: Path, protocol: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Annotations as they are published: numbers of numpy's, texts of run lengths as bytes."""
    whole, seen = half_hidden()
    masks = {}
    for name, values in (("segmentation", whole), ("visible_mask", seen)):
        masks[name] = {"size": list(SIZE), "counts": compressed(counted(values)).encode()}
    region = {
        **masks,
        "area": np.uint32(whole.sum()),
        "occlusion_rate": np.float64(0.5),
        "bbox": np.array([[2, 1], [6, 6]], order="F"),
        "category_id": "chair",
    }
    content = {
        "images": [{"id": 5, "file_name": "room.png", "height": 9, "width": 12}],
        "annotations": [{"image_id": 5, "regions": [region, region], "depth_constraint": ""}],
    }
    path.write_bytes(pickle.dumps(content, protocol))
    return whole, seen


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_the_converted_pickle_is_read(tmp_path, protocol):
    whole, seen = mp3d(tmp_path / "MP3D_seleted_eval_10.29.pkl", protocol)
    out = tmp_path / "MP3D_seleted_eval_10.29.json"
    assert convert_mp3d(tmp_path / "MP3D_seleted_eval_10.29.pkl", out) == 2
    region = json.loads(out.read_text())["annotations"][0]["regions"][0]
    assert (region["area"], region["occlusion_rate"]) == (36, 0.5)
    assert region["bbox"] == [[2, 1], [6, 6]]
    image = picture(tmp_path / "mp3d_eval" / "room.png")
    samples = open_set("mp3d_amodal", tmp_path, "eval")
    assert [sample.name for sample in samples] == [f"mp3d_eval/room.png#0.{i}" for i in (0, 1)]
    np.testing.assert_array_equal(samples[0].images, (image,))
    np.testing.assert_array_equal(truth_of(samples[0]).amodal, whole)
    np.testing.assert_array_equal(truth_of(samples[0]).visible, seen)


def test_mp3d_says_how_to_convert_and_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"convert-mp3d MP3D_seleted_eval_10.29\.pkl"):
        open_set("mp3d_amodal", tmp_path, "eval")
    content = annotations([{"segmentation": SQUARE}])
    out = tmp_path / "MP3D_seleted_eval_10.29.json"
    out.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"regions\[0\] has no visible_mask"):
        open_set("mp3d_amodal", tmp_path, "eval")
    mp3d(tmp_path / "a.pkl")
    convert_mp3d(tmp_path / "a.pkl", out)
    with pytest.raises(DataError, match="has no picture of the annotations in mp3d_eval"):
        open_set("mp3d_amodal", tmp_path, "eval")


class Command:
    """A pickle of this runs a command in an ordinary unpickler."""

    def __reduce__(self):
        return os.mkdir, (os.environ["PERCEPT_TEST_FOLDER"],)


def test_a_pickle_that_would_run_code_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    made = tmp_path / "made"
    monkeypatch.setenv("PERCEPT_TEST_FOLDER", str(made))
    source, out = tmp_path / "hostile.pkl", tmp_path / "out.json"
    source.write_bytes(pickle.dumps({"images": [], "annotations": [Command()]}))
    with pytest.raises(DataError, match=r"hostile\.pkl is refused: it asks for posix\.mkdir"):
        convert_mp3d(source, out)
    assert not made.exists()
    assert list(tmp_path.iterdir()) == [source]
    pickle.loads(source.read_bytes())
    assert made.exists(), "the pickle was not hostile at all"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a pickle",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x0bdtype.x.y.z\x93.",
        pickle.dumps({"images": {1, 2}}),
        pickle.dumps({"images": [], "annotations": np.array([object()])}),
        pickle.dumps([1, 2]),
        pickle.dumps({"images": [], "annotations": [b"\xff"]}),
        pickle.dumps({"images": [], "annotations": 3}),
    ],
)
def test_other_pickles_are_refused(tmp_path, data):
    (tmp_path / "some.pkl").write_bytes(data)
    with pytest.raises(DataError, match=r"some\.pkl"):
        convert_mp3d(tmp_path / "some.pkl", tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_values_that_hold_themselves_are_refused(tmp_path):
    endless: list[object] = []
    endless.append(endless)
    (tmp_path / "some.pkl").write_bytes(pickle.dumps(endless))
    with pytest.raises(DataError, match="not the pickle it should be"):
        convert_mp3d(tmp_path / "some.pkl", tmp_path / "out.json")


def test_the_command_converts_and_refuses(tmp_path, capsys):
    mp3d(tmp_path / "good.pkl")
    (tmp_path / "bad.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    out = str(tmp_path / "out.json")
    assert main(["convert-mp3d", str(tmp_path / "good.pkl"), out]) == 0
    assert "wrote 2 regions" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["convert-mp3d", str(tmp_path / "bad.pkl"), out])
    assert "bad.pkl is refused: it asks for os.system" in capsys.readouterr().err
