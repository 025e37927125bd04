"""What a call costs on simulated devices: a fixed part and a part for every row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from service.backends.repository import ServedModel
from service.core.artifact import FixedGrid, FixedSize
from tests.benchmarks.request_level import Networks


@dataclass(frozen=True)
class Line:
    """Seconds of a call: `fixed_s` + `row_s` x rows."""

    fixed_s: float
    row_s: float

    def seconds(self, rows: int) -> float:
        """Seconds of a call of so many rows."""
        return self.fixed_s + self.row_s * rows


@dataclass(frozen=True)
class Device:
    """The three networks' costs on one kind of device."""

    name: str
    encode: Line
    denoise: Line
    decode: Line

    def line(self, network: str, model: ServedModel) -> Line:
        """The cost of one of a model's networks."""
        artifact = model.artifact
        return {artifact.denoiser: self.denoise, artifact.decoder: self.decode}.get(
            network, self.encode
        )


# Assumed, not measured: round numbers for an accelerator on a large and on a small network, and for
# two cores on the shipped one. `measured_here` is what this machine really takes.
DEVICES = (
    Device("large GPU model", Line(8e-3, 2e-3), Line(10e-3, 3e-3), Line(8e-3, 2e-3)),
    Device("small GPU model", Line(3e-3, 0.5e-3), Line(4e-3, 0.7e-3), Line(3e-3, 0.5e-3)),
    Device("shipped model, CPU", Line(0.5e-3, 8e-3), Line(0.4e-3, 1.7e-3), Line(0.5e-3, 5e-3)),
)


def measured_here(model: ServedModel) -> Device:
    """Lines through what this machine's CPU takes for 1 to 16 rows."""
    networks, artifact = Networks(model), model.artifact
    encoder = artifact.served("depth").encoder
    lines = [
        _fit(networks.seconds(network))
        for network in (encoder, artifact.denoiser, artifact.decoder)
    ]
    return Device("this CPU, measured", *lines)


def _fit(seconds: Mapping[int, float]) -> Line:
    row_s, fixed_s = np.polyfit(list(seconds), list(seconds.values()), 1)
    return Line(max(float(fixed_s), 1e-5), max(float(row_s), 1e-6))


def jain(service: Sequence[float]) -> float:
    """Jain's index of fairness: 1 when all have the same, 1/n when one has everything."""
    total, squares = sum(service), sum(amount**2 for amount in service)
    return total**2 / (len(service) * squares) if squares else 1.0


def spread(service: Sequence[float]) -> float:
    """The most that one has more than another, over the mean."""
    return (max(service) - min(service)) * len(service) / sum(service)


def with_small_arrays(model: ServedModel) -> ServedModel:
    """The same model with pictures and latents of one pixel: what is left is bookkeeping."""
    artifact = model.artifact
    encoders = tuple(replace(encoder, size=FixedSize(1, 1)) for encoder in artifact.encoders)
    latent = replace(artifact.latent, size=FixedGrid(1, 1))
    return ServedModel(replace(artifact, latent=latent, encoders=encoders), model.folder)
