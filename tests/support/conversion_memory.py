"""How much memory a conversion takes at most: run in a process of its own, prints JSON.

`python -m tests.support.conversion_memory FOLDER`: bytes of the weights in single precision, and by
how the weights are stored, the peak over what was there before.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.support.artifacts import small_artifact
from training.converters.record import Conversion, Part
from training.converters.weights import fill
from training.converters.writing import Weights, convert

MODES: Mapping[str, Weights] = {
    "fp32": Weights("fp32"),
    "fp16": Weights("fp16"),
    "bf16": Weights("bf16"),
    "int8": Weights("fp32", "int8"),
}
_WIDTH, _LAYERS = 1024, 12  # in half, too, more than what a file holds inline


class Wide(nn.Module):
    """Products and convolutions, alternately, whose weights are some 150 MB."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(4, _WIDTH, 1), nn.Conv2d(_WIDTH, 3, 1)
        self.products = nn.ModuleList(nn.Linear(_WIDTH, 2 * _WIDTH) for _ in range(_LAYERS))
        self.mixers = nn.ModuleList(nn.Conv2d(2 * _WIDTH, _WIDTH, 1) for _ in range(_LAYERS // 2))

    def forward(self, latent: Tensor) -> Tensor:
        x = self.enter(latent)
        for number, product in enumerate(self.products):
            y = product(x.movedim(1, -1)).movedim(-1, 1)
            mixed = self.mixers[number // 2](y) if number % 2 else y[:, :_WIDTH]
            x = x + torch.tanh(mixed)
        image: Tensor = self.leave(x)
        return image


def measure(folder: Path) -> dict[str, float]:
    """Writes weights, then converts them in every way."""
    torch.manual_seed(0)
    weights = folder / "wide.safetensors"
    save_file(Wide().state_dict(), weights)
    _convert(folder, weights, MODES["fp32"])  # loads the libraries
    found: dict[str, float] = {"weights": weights.stat().st_size}
    for name, how in MODES.items():
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        before = _status("VmRSS")
        _convert(folder, weights, how)
        found[name] = _status("VmHWM") - before
    return found


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _convert(folder: Path, weights: Path, how: Weights) -> None:
    def load() -> nn.Module:
        return fill(_skeleton(), (weights,))

    part = Part(
        "m_decoder", "image", _skeleton, load, lambda size: {"latent": torch.randn(2, 4, *size)}
    )
    like = small_artifact()
    conversion = Conversion(
        description="",
        licence="none",
        provenance={},
        notes=(),
        schedule=like.schedule,
        latent=like.latent,
        condition_channels=like.condition_channels,
        timestep_dtype=like.timestep_dtype,
        has_labels=like.has_labels,
        encoders=like.encoders,
        denoiser="m_denoiser",
        decoder=part.name,
        tasks=like.tasks,
        parts=(part,),
        multiple=1,
    )
    convert(conversion, folder, "m", 1, how)


def _skeleton() -> nn.Module:
    with torch.device("meta"):
        return Wide().requires_grad_(False).eval()


if __name__ == "__main__":
    torch.set_num_threads(1)
    measured = measure(Path(sys.argv[1]))
    sys.stdout.write(json.dumps(measured) + "\n")
