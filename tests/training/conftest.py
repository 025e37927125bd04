"""Runs of very small models, trained once for all tests of the package."""

import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from training import autoencoder, evaluate, export, finetune
from training.report import CALIBRATION

Build = Callable[[str], Path]

AUTOENCODER = ["--run", "tiny", "--device", "cpu", "--set", "loop.steps=4"]
FINETUNE = ["--device", "cpu", "--set", "loop.steps=6", "--set", "loop.save_every=2"]
MEASURE = ["--scenes", "2", "--steps", "1", "2", "--members", "1", "2", "--eager"]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of several threads round differently, and tests compare to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def autoencoder_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a trained autoencoder."""
    folder = tmp_path_factory.mktemp("autoencoder")
    _run(autoencoder.main, [*AUTOENCODER, "--out", str(folder)])
    return folder


@pytest.fixture(scope="session")
def finetuned(autoencoder_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Folder of a finished run, by the run's name: `tiny` or `tiny-concatenated`."""

    @cache
    def build(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        where = ["--vae", str(autoencoder_run), "--out", str(folder)]
        _run(finetune.main, ["--run", name, *FINETUNE, *where])
        return folder

    return build


@pytest.fixture(scope="session")
def measured(finetuned: Build) -> Build:
    """Folder of a run with its calibration, by the run's name."""

    @cache
    def build(name: str) -> Path:
        folder = finetuned(name)
        _run(evaluate.main, [str(folder), *MEASURE, "--calibrate", str(folder / CALIBRATION)])
        return folder

    return build


@pytest.fixture(scope="session")
def exported(measured: Build, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Model repository that holds a measured run as `small:1`, by the run's name."""

    @cache
    def build(name: str) -> Path:
        repository = tmp_path_factory.mktemp(f"{name}-repository")
        arguments = ["--repository", str(repository), "--name", "small"]
        _run(export.main, [str(measured(name)), *arguments])
        return repository

    return build


def _run(main: Callable[[list[str]], None], arguments: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's and tensorboard's own
        main(arguments)
