"""Class-labelled pictures: ImageNet's folders, WebDataset shards, rendered ones, and the crop."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.data.image_folder import open_image_folder
from training.data.labelled import centre_crop, decode_square
from training.data.procedural.labelled import CLASSES, ProceduralClasses, render_labelled
from training.data.sample import DataError
from training.data.shards import expand_braces, open_shards


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for wnid in ("n02", "n01"):
        (tmp_path / "train" / wnid).mkdir(parents=True)
        for number in (1, 0):
            name = f"{wnid}_{number}.JPEG"
            picture(number).save(tmp_path / "train" / wnid / name, "JPEG")
    (tmp_path / "train" / "n02" / "notes.txt").write_text("not a picture")
    return tmp_path


def test_folders_are_classes_in_the_order_of_their_names(folder: Path) -> None:
    source = open_image_folder(folder, 16)
    assert source.classes == ("n01", "n02")
    read = [source[index] for index in range(len(source))]
    assert [(one.name, one.label) for one in read] == [
        ("n01/n01_0.JPEG", 0),
        ("n01/n01_1.JPEG", 0),
        ("n02/n02_0.JPEG", 1),
        ("n02/n02_1.JPEG", 1),
    ]
    assert all(one.image.shape == (16, 16, 3) and one.image.dtype == np.uint8 for one in read)
    with Image.open(folder / "train/n01/n01_0.JPEG") as image:
        np.testing.assert_array_equal(read[0].image, centre_crop(image, 16))
    assert open_image_folder(folder / "train", 16).files == source.files


def test_errors_name_the_folder_or_the_picture(folder: Path) -> None:
    with pytest.raises(DataError, match="missing is not a folder"):
        open_image_folder(folder / "missing", 16)
    with pytest.raises(DataError, match="n01 has no class folders"):
        open_image_folder(folder / "train" / "n01", 16)
    (folder / "train" / "n03").mkdir()
    with pytest.raises(DataError, match="n03 has no pictures"):
        open_image_folder(folder, 16)
    (folder / "train" / "n03" / "x.png").write_bytes(b"broken")
    source = open_image_folder(folder, 16)
    with pytest.raises(DataError, match=r"n03/x\.png cannot be read"):
        source[len(source) - 1]


def test_the_crop_halves_and_then_goes_bicubically_to_the_middle() -> None:
    image = picture(0, width=150, height=60)
    halved = image.resize((75, 30), Image.Resampling.BOX)
    whole = np.asarray(halved.resize((40, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(centre_crop(image, 16), whole[:, 12:28])
    small = picture(1, width=8, height=10)
    assert centre_crop(small, 16).shape == (16, 16, 3)
    flat = Image.new("RGB", (301, 200), (9, 200, 77))
    assert np.unique(centre_crop(flat, 64).reshape(-1, 3), axis=0).tolist() == [[9, 200, 77]]


def test_grey_and_palette_pictures_become_rgb() -> None:
    for mode in ("L", "P", "CMYK", "RGBA"):
        kind = "JPEG" if mode == "CMYK" else "PNG"
        data = encoded(picture(2).convert(mode), kind)
        assert decode_square(data, 16, mode).shape == (16, 16, 3)


def test_braces_expand_as_in_a_shell() -> None:
    assert expand_braces("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand_braces("{x,y}/{0..1}") == ["x/0", "x/1", "y/0", "y/1"]
    assert expand_braces("plain.tar") == ["plain.tar"]


def test_shards_are_read_in_order_with_labels_of_either_kind(tmp_path: Path) -> None:
    images = [picture(seed) for seed in range(4)]
    kinds = ["PNG", "JPEG", "WEBP", "PNG"]
    data = [encoded(image, kind) for image, kind in zip(images, kinds, strict=True)]
    write_tar(
        tmp_path / "x-000.tar",
        [
            ("a/one.png", data[0]),
            ("a/one.cls", b"3"),
            ("a/two.cls", b"0\n"),
            ("a/two.jpg", data[1]),
            ("readme.txt", b"no picture of this key"),
        ],
    )
    write_tar(
        tmp_path / "x-001.tar",
        [
            ("three.webp", data[2]),
            ("three.json", json.dumps({"label": 1, "text": "a dog"}).encode()),
            ("four.png", data[3]),
            ("four.json", b"2"),
        ],
    )
    source = open_shards(str(tmp_path / "x-{000..001}.tar"), 24)
    read = [source[index] for index in range(len(source))]
    assert [one.name for one in read] == ["a/one", "a/two", "three", "four"]
    assert [one.label for one in read] == [3, 0, 1, 2]
    assert source.classes == ("0", "1", "2", "3")
    for one, expected in zip(read, data, strict=True):
        np.testing.assert_array_equal(one.image, decode_square(expected, 24, "expected"))
    assert open_shards(str(tmp_path), 24).members == source.members


def test_what_the_webdataset_package_writes_is_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    path = tmp_path / "w.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(3):
            pixels = np.asarray(picture(number))
            writer.write({"__key__": f"sample{number}", "png": pixels, "cls": number})
    source = open_shards(str(path), 30)
    assert [source[index].label for index in range(3)] == [0, 1, 2]
    np.testing.assert_array_equal(source[2].image, centre_crop(picture(2), 30))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.png", b"x")], "a in .*x.tar has no label"),
        ([("a.png", b"x"), ("a.cls", b"dog")], "holds b'dog', not a number"),
        ([("a.png", b"x"), ("a.json", b"{}")], "must hold a class 0, 1, ..., got None"),
        ([("a.png", b"x"), ("a.cls", b"-1")], "got -1"),
        ([("a.txt", b"x")], "holds no pictures"),
    ],
)
def test_bad_shards_are_named(
    members: list[tuple[str, bytes]], message: str, tmp_path: Path
) -> None:
    write_tar(tmp_path / "x.tar", members)
    with pytest.raises(DataError, match=message):
        open_shards(str(tmp_path), 16)


def test_missing_and_broken_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no \.tar files"):
        open_shards(str(tmp_path), 16)
    with pytest.raises(DataError, match=r"x-1\.tar does not exist"):
        open_shards(str(tmp_path / "x-{1..2}.tar"), 16)
    (tmp_path / "x.tar").write_bytes(b"not a tar file" * 100)
    with pytest.raises(DataError, match=r"x\.tar cannot be read"):
        open_shards(str(tmp_path), 16)
    write_tar(tmp_path / "x.tar", [("a.png", b"broken"), ("a.cls", b"0")])
    with pytest.raises(DataError, match=r"a in .*x\.tar cannot be read as a picture"):
        open_shards(str(tmp_path), 16)[0]


def test_rendered_pictures_depend_on_seed_and_index_alone() -> None:
    source, again = ProceduralClasses(40, 16), ProceduralClasses(33, 16)
    late, early = source[32], source[1]  # of two renderings, in either order
    np.testing.assert_array_equal(again[1].image, early.image)
    np.testing.assert_array_equal(again[32].image, late.image)
    assert again[32].label == late.label
    other = ProceduralClasses(40, 16, seed=2)[1]
    assert not np.array_equal(other.image, early.image)


def test_dim_classes_are_darker_than_bright_ones() -> None:
    assert len(CLASSES) == 12
    label = torch.arange(12).repeat_interleave(2)
    images = render_labelled(torch.Generator().manual_seed(4), label, 24)
    light = images.mean(dim=(1, 2, 3)).unflatten(0, (6, 2, 2)).mean(dim=2)  # family, light
    assert (light[:, 1] > light[:, 0] + 0.1).all()
