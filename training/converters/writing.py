"""Writes a conversion as a served model: one network in memory at a time, checked against torch."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from service.core.artifact import Artifact
from service.core.sizes import Size
from training.converters.record import Conversion, Part
from training.onnx_network import (
    TOLERANCE,
    Network,
    check_cases,
    evaluate,
    trace,
)
from training.onnx_storage import EXTERNAL_BYTES, Storage, round_weights, save_graph
from training.quantize import quantize
from training.served_model import adding_version, network_files, write_artifact

Quantization = Literal["none", "int8"]
# Of the largest output. In integers a network beyond it is broken, not rounded.
TOLERANCES: Mapping[Quantization, float] = {"none": TOLERANCE, "int8": 0.2}

# In latent cells: no side a multiple of 8, and a picture that is all but a line.
_TRACED, _OTHERS = (9, 12), ((8, 8), (1, 10))


@dataclass(frozen=True)
class Weights:
    """How weights are stored. `external_from` is the size from which they get their own file."""

    storage: Storage = "fp32"
    quantization: Quantization = "none"
    external_from: int = EXTERNAL_BYTES


def convert(
    conversion: Conversion, repository: Path, name: str, version: int, weights: Weights
) -> Artifact:
    """Writes a conversion into `repository`, in place of that version of the name; others stay.

    Raises ConvertError and ExportError, which leave the repository as it was.
    """
    torch.manual_seed(0)
    with adding_version(repository, name) as folder:
        for part in conversion.parts:
            path = folder / part.name / str(version) / "model.onnx"
            print(_write(part, conversion.multiple, path, weights))
            gc.collect()
        artifact = Artifact(
            format=1,
            name=name,
            version=version,
            description=conversion.description,
            licence=conversion.licence,
            provenance={
                **conversion.provenance,
                "weights": weights.storage,
                "quantization": weights.quantization,
            },
            schedule=conversion.schedule,
            latent=conversion.latent,
            condition_channels=conversion.condition_channels,
            timestep_dtype=conversion.timestep_dtype,
            has_labels=conversion.has_labels,
            encoders=conversion.encoders,
            denoiser=conversion.denoiser,
            decoder=conversion.decoder,
            tasks=conversion.tasks,
            files=network_files(folder),
        )
        write_artifact(artifact, folder)
    return artifact


def _write(part: Part, multiple: int, path: Path, weights: Weights) -> str:
    """Write one network; what torch answers outlives its weights, so that they exist once."""
    network = _load(part, multiple)
    exact = evaluate(network)
    round_weights(network.module, weights.storage)
    rounded = exact if weights.storage == "fp32" else evaluate(network)
    path.parent.mkdir(parents=True)
    graph = trace(network)
    if weights.quantization == "int8":
        quantize(graph)
    save_graph(graph, path, weights.storage, weights.external_from)
    del network, graph
    gc.collect()  # the traced program refers to itself, and to the weights
    off = check_cases(path, part.output, rounded, TOLERANCES[weights.quantization], exact)
    size = sum(file.stat().st_size for file in path.parent.iterdir())
    return f"{part.name}: {size / 1e6:.1f} MB, differs from the checkpoint in torch by {off:.1e}"


def _load(part: Part, multiple: int) -> Network:
    def inputs(cells: Size) -> dict[str, torch.Tensor]:
        return dict(part.inputs((cells[0] * multiple, cells[1] * multiple)))

    others = tuple(inputs(cells) for cells in _OTHERS)
    return Network(part.name, part.load(), inputs(_TRACED), part.output, True, others)
