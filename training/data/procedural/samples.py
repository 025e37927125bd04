"""Draws the sample pictures: `python -m training.data.procedural.samples service/web/samples`.

One room, two frames of a moving scene, and a half-hidden object with its visible mask, all rendered
by the project's own generators, so that they may be shipped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from training.data.mixture import seeded
from training.data.procedural.layers import render_amodal, render_flow
from training.data.procedural.raycast import render_depth

SIDE = 512
_ROOM, _PAIR, _OBJECT = 9, 4, 6  # seeds whose pictures show their task well


def save(picture: Tensor, path: Path) -> None:
    """Writes a picture (C, S, S) in [0, 1] with C = 3 or 1; the file's ending says the format."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(path, quality=90)
    print(f"wrote {path}")


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="training.data.procedural.samples", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    cpu = torch.device("cpu")
    save(render_depth(seeded(cpu, "room", _ROOM), 1, SIDE).image[0], folder / "room.jpg")
    pair = render_flow(seeded(cpu, "pair", _PAIR), 1, SIDE)
    save(pair.frame1[0], folder / "frame1.jpg")
    save(pair.frame2[0], folder / "frame2.jpg")
    hidden = render_amodal(seeded(cpu, "object", _OBJECT), 1, SIDE)
    save(hidden.image[0], folder / "object.jpg")
    save(hidden.visible[0], folder / "object_mask.png")


if __name__ == "__main__":
    main()
