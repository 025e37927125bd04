"""Public checkpoints, converted and served in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import onnx_ir as ir
import pytest
import torch

from training import convert
from training.converters import writing
from training.onnx_network import Network

Convert = Callable[..., Path]


@pytest.fixture(scope="session")
def converted(
    tmp_path_factory: pytest.TempPathFactory, remembered_traces: Callable[[Network], ir.Model]
) -> Iterator[Convert]:
    """Runs the command line; returns the repository that it wrote."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(source: str, checkpoint: Path, *flags: str, name: str = "public") -> Path:
        repository = tmp_path_factory.mktemp("repository")
        where = ["--name", name, "--repository", str(repository)]
        convert.main([source, str(checkpoint), *where, *flags])
        return repository

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "trace", remembered_traces)
        yield run
    torch.set_num_threads(before)
