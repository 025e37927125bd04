"""Small public sets in their real formats, with the pictures that a perfect model makes of them."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from training.targets import AMODAL, DEPTH, FLOW

SIDE = 64  # of the tiny models' pictures


def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of pixel centres, in 0..1."""
    rows, columns = np.indices((height, width))
    return (rows + 0.5) / height, (columns + 0.5) / width


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[None], 3, axis=0).astype(np.float32)


def write_nyu(root: Path, count: int = 2) -> list[np.ndarray]:
    """Rooms whose depth is a plane; gives their encoded pictures."""
    folder = root / "test" / "room_1"
    folder.mkdir(parents=True)
    for number in range(count):
        rows, columns = grid(480, 640)
        millimetres = np.round(1000 * (2 + (1 + number) * columns + 3 * rows)).astype(np.uint16)
        millimetres[200:210, 300:320] = 0  # unknown
        Image.fromarray(millimetres).save(folder / f"depth_{number:04d}.png")
        shade = (255 * columns).astype(np.uint8)
        Image.fromarray(np.dstack([shade, shade, shade])).save(folder / f"rgb_{number:04d}.png")
    encoding = replace(DEPTH, low_quantile=0.0, high_quantile=1.0)
    everywhere = np.ones((SIDE, SIDE), dtype=bool)
    rows, columns = grid(SIDE, SIDE)
    planes = [2 + (1 + number) * columns + 3 * rows for number in range(count)]
    return [grey(encoding.encode(plane, everywhere)) for plane in planes]


def write_chairs(root: Path) -> list[np.ndarray]:
    """Frames that move as a whole, each pair in its own way; gives their encoded pictures."""
    (root / "data").mkdir(parents=True)
    motions = [(5.0, -3.0), (-12.0, 2.5), (0.0, 9.0)]
    pictures = []
    for number, (u, v) in enumerate(motions, start=1):
        frame = np.random.default_rng(number).integers(0, 255, (48, 96, 3), dtype=np.uint8)
        for part in ("img1", "img2"):
            Image.fromarray(frame).save(root / "data" / f"{number:05d}_{part}.ppm")
        flow = np.zeros((48, 96, 2), dtype="<f4") + np.array([u, v], dtype="<f4")
        head = struct.pack("<fii", 202021.25, 96, 48)
        (root / "data" / f"{number:05d}_flow.flo").write_bytes(head + flow.tobytes())
        plane = np.ones((SIDE, SIDE), dtype=np.float32)
        encoded = FLOW.encode(u * plane, v * plane, 96, 48)
        pictures.append(np.stack([*encoded, 0 * plane]).astype(np.float32))
    (root / "FlyingChairs_train_val.txt").write_text("2\n1\n2\n")
    return [pictures[0], pictures[2]]


def write_objects(root: Path, count: int = 3) -> list[np.ndarray]:
    """Red boxes of growing size whose right half is hidden; gives their encoded masks."""
    folders = ("occlusion", "whole", "visible_object_mask", "whole_mask")
    for folder in folders:
        (root / folder).mkdir(parents=True)
    masks = []
    for number in range(count):
        whole = np.zeros((256, 256), dtype=np.uint8)
        whole[40 : 80 + 32 * number, 64:192] = 255
        visible = np.where(np.arange(256) < 128, whole, 0).astype(np.uint8)
        red = np.dstack([whole * 0 + 200, whole * 0 + 10, whole * 0 + 10]).astype(np.uint8)
        values = {
            "occlusion": np.where(visible[..., None] > 0, red, 90).astype(np.uint8),
            "whole": np.where(whole[..., None] > 0, red, 255).astype(np.uint8),
            "visible_object_mask": visible,
            "whole_mask": whole,
        }
        endings = ("occlusion", "whole", "visible_mask", "whole_mask")
        for folder, ending in zip(folders, endings, strict=True):
            Image.fromarray(values[folder]).save(root / folder / f"{number}_{ending}.png")
        masks.append(whole[2::4, 2::4] > 0)  # edges lie on multiples of four pixels
    return [grey(2.0 * mask - 1) for mask in masks]


def on_white(masks: list[np.ndarray], colour: tuple[float, float, float]) -> list[np.ndarray]:
    """Objects of one colour, RGB in -1..1, where encoded masks (3, P, P) are set."""
    plain = np.array(colour, dtype=np.float32)[:, None, None]
    coverages = ((mask[0] > 0).astype(np.float32) for mask in masks)
    return [AMODAL.encode_appearance(0 * c + plain, c).astype(np.float32) for c in coverages]
