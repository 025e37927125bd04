"""Hub ids: what is fetched, what is not, and what is said where there is nothing to fetch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.hub import COMMIT, hub_of
from tests.support.public_checkpoints import WEIGHTS, build_tiny_autoencoder
from tests.training.converters.conftest import Copy
from training.converters.record import Request, Source
from training.converters.table import CONVERTERS

ID = "owner/checkpoint-v1"
# What public repositories hold beside what is needed.
BESIDE = (
    ".gitattributes",
    "768-v-ema.safetensors",
    "768-v-ema.ckpt",
    "teaser.jpg",
    "feature_extractor/preprocessor_config.json",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/flax_model.msgpack",
    "vae/diffusion_pytorch_model.bin",
    "vae/diffusion_pytorch_model.fp16.bin",
    "vae_encoder/model.onnx",
)
Fetch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    """Looks a hub id up in a process of its own, where the hub is at another address."""

    def run(url: str, function: str = "find_checkpoint") -> subprocess.CompletedProcess[str]:
        code = f"from training.converters import hub; print(hub.{function}({ID!r}).folder)"
        return _python(url, tmp_path / "cache", "-c", code)

    return run


def _python(url: str, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environ = {**kept, "HF_ENDPOINT": url, "HF_HOME": str(cache), "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, *arguments], env=environ, capture_output=True, text=True, check=False
    )


def add(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())


def files_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_what_is_needed_is_fetched_and_nothing_else(copy: Copy, fetch: Fetch):
    folder = copy("marigold")
    needed = files_in(folder)
    add(folder, *BESIDE)
    with hub_of(ID, folder) as hub:
        run = fetch(hub.url)
    assert run.returncode == 0, run.stderr
    found = Path(run.stdout.strip())
    assert hub.fetched == files_in(found) == needed
    assert found.name == COMMIT
    conversion = CONVERTERS["marigold"](Request(name="m", checkpoint=Source(found, ID)))
    assert conversion.provenance["revision"] == COMMIT
    assert conversion.parts[-1].load() is not None
    again = fetch(hub.url)  # nobody answers there now
    assert again.stdout == run.stdout, again.stderr


def test_of_a_model_only_the_autoencoder_and_its_scheduler_may_be_wanted(copy: Copy, fetch: Fetch):
    folder = copy("marigold")
    add(folder, *BESIDE)
    with hub_of(ID, folder) as hub:
        run = fetch(hub.url, "find_autoencoder")
    assert run.returncode == 0, run.stderr
    vae = {"vae/config.json", f"vae/{WEIGHTS}"}
    assert {name for name in hub.fetched if "safetensors" in name} == {f"vae/{WEIGHTS}"}
    assert hub.fetched >= vae | {"scheduler/scheduler_config.json", "README.md"}
    assert not [name for name in hub.fetched if name.startswith(("unet", "text_encoder"))]


def test_an_autoencoder_alone_lies_at_the_top(tmp_path: Path, fetch: Fetch):
    folder = build_tiny_autoencoder(tmp_path / "taesd")
    needed = files_in(folder)
    add(folder, "taesd_decoder.safetensors", "diffusion_pytorch_model.bin", "taesd_encoder.pth")
    with hub_of(ID, folder) as hub:
        assert fetch(hub.url, "find_autoencoder").returncode == 0
    assert hub.fetched == needed


def test_halves_are_fetched_where_there_is_no_whole(copy: Copy, fetch: Fetch):
    folder = copy("marigold")
    half = "diffusion_pytorch_model.fp16.safetensors"
    (folder / "unet" / WEIGHTS).rename(folder / "unet" / half)
    needed = files_in(folder)
    add(folder, "unet/diffusion_pytorch_model.bin")
    with hub_of(ID, folder) as hub:
        assert fetch(hub.url).returncode == 0
    assert hub.fetched == needed


def test_shards_are_fetched_with_their_index(copy: Copy, fetch: Fetch):
    folder = copy("marigold")
    (folder / "unet" / WEIGHTS).unlink()
    stem = "unet/diffusion_pytorch_model"
    add(folder, f"{stem}-00001-of-00002.safetensors", f"{stem}-00002-of-00002.safetensors")
    add(folder, f"{stem}.safetensors.index.json")
    needed = files_in(folder)
    add(folder, f"{stem}-00001-of-00002.bin", f"{stem}.bin.index.json")
    with hub_of(ID, folder) as hub:
        assert fetch(hub.url).returncode == 0
    assert hub.fetched == needed


def test_weights_that_are_pickles_only_are_left_there(copy: Copy, tmp_path: Path):
    folder = copy("marigold")
    (folder / "unet" / WEIGHTS).unlink()
    add(folder, "unet/diffusion_pytorch_model.bin")
    with hub_of(ID, folder) as hub:
        run = _convert(hub.url, tmp_path / "cache")
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "unet/diffusion_pytorch_model.bin and no safetensors" in run.stderr
    assert "pass its folder" in run.stderr
    assert hub.fetched == set()


def _convert(url: str, cache: Path) -> subprocess.CompletedProcess[str]:
    return _python(url, cache, "-m", "training.convert", "marigold", ID, "--name", "m")


def test_a_hub_that_is_not_reachable_is_one_clear_line(tmp_path: Path):
    with socket.socket() as taken:  # and nobody listens
        taken.bind(("127.0.0.1", 0))
        run = _convert(f"http://127.0.0.1:{taken.getsockname()[1]}", tmp_path / "cache")
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1, run.stderr
    assert run.stderr.startswith(
        f"training.convert: {ID} is no folder here and could not be fetche"
    )


def test_a_repository_that_is_not_there_is_one_clear_line(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with hub_of("somebody/else", tmp_path / "empty") as hub:
        run = _convert(hub.url, tmp_path / "cache")
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1, run.stderr
    assert ID in run.stderr
