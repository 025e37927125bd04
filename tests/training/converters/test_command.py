"""The command line: where checkpoints come from, licences, what is said, what is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import huggingface_hub
import onnx_ir as ir
import pytest

from service.backends.repository import load_repository
from service.core.tensors import model_tensors
from tests.architecture.test_model_repository import disagreements, parse_text_proto
from tests.support.public_checkpoints import CHANNELS, build_autoencoder
from tests.training.converters.conftest import Copy, described, load_denoiser
from training.convert import announce, estimate, main
from training.converters import writing
from training.converters.licence import is_non_commercial, read_licence
from training.converters.record import ConvertError, Source
from training.onnx_network import Network


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("Name or service not known\nand more"),
        huggingface_hub.errors.LocalEntryNotFoundError("Name or service not known\nand more"),
    ],
)
def test_a_hub_id_without_a_network_is_one_clear_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(SystemExit) as caught:
        main(["marigold", "prs-eth/marigold-depth-v1-1", "--name", "m"])
    assert caught.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "prs-eth/marigold-depth-v1-1" in said[0]
    assert "Name or service not known" in said[0]


def test_what_is_neither_folder_nor_hub_id_is_said(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(["marigold", "/no/such/folder", "--name", "m"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("readme", "file", "given", "expected"),
    [
        ("---\nlicense: cc-by-nc-4.0\n---\n", None, None, "cc-by-nc-4.0"),
        ("---\nlicense: other\nlicense_name: weights-1\n---\n", None, None, "weights-1"),
        ("no front matter", "\n  MIT License\n\ntext", None, "MIT License"),
        (None, None, "mit", "mit"),
        ("---\nlicense: mit\n---\n", None, "MIT", "MIT"),
        ("---\nlicense: mit\n---\n", None, "gpl", "gpl (the checkpoint's own files say mit)"),
    ],
)
def test_licences(
    readme: str | None, file: str | None, given: str | None, expected: str, tmp_path: Path
):
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    if file is not None:
        (tmp_path / "LICENSE.txt").write_text(file)
    assert read_licence(Source(tmp_path, "x"), given) == expected


def test_licences_without_commerce_are_noticed():
    forbidding = ("cc-by-nc-4.0", "CC BY-NC-SA 4.0", "Non-Commercial", "noncommercial use")
    assert all(is_non_commercial(text) for text in forbidding)
    allowing = ("apache-2.0", "MIT License", "openrail++", "cc-by-4.0", "principal")
    assert not any(is_non_commercial(text) for text in allowing)


def test_the_estimate_counts_without_computing(built: dict[str, Path]):
    text = estimate(described(built["marigold"], resolution=768), 1e9)
    assert "768 x 576 px" in text
    denoiser = next(line for line in text.splitlines() if "m_denoiser" in line)
    parameters = sum(p.numel() for p in load_denoiser(built["marigold"]).parameters())
    assert f"{parameters / 1e6:.1f} M parameters" in denoiser


def test_the_command_says_what_matters_and_triton_reads_what_the_service_reads(
    copy: Copy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    remembered_traces: Callable[[Network], ir.Model],
):
    monkeypatch.setattr(writing, "trace", remembered_traces)
    folder = copy("marigold")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    repository = tmp_path / "repository"
    main(["marigold", str(folder), "--name", "m", "--repository", str(repository)])
    said = capsys.readouterr().out
    assert "licence: cc-by-nc-4.0" in said
    assert "NOT FOR COMMERCIAL USE" in said
    assert "m_denoiser: 0.8 M parameters" in said
    assert "m:1 is in" in said
    served = load_repository(repository)["m:1"]
    for network, signature in model_tensors(served.artifact).items():
        config_path = repository / network.partition(":")[0] / "config.pbtxt"
        config = parse_text_proto(config_path.read_text())
        assert disagreements(config, network, signature) == [], network


def test_an_autoencoder_of_no_stated_licence_is_given_one(
    built: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    vae = build_autoencoder(tmp_path / "vae", channels=CHANNELS)
    pair = Source(vae, str(vae))
    with pytest.raises(ConvertError, match=r"vae states a licence .* pass --vae-licence"):
        described(built["marigold"], vae=pair)
    with pytest.raises(ConvertError, match="pass --vae too"):
        described(built["marigold"], vae_licence="mit")
    with pytest.raises(ConvertError, match="--heads is not for marigold"):
        described(built["marigold"], heads=4)
    conversion = described(built["marigold"], vae=pair, vae_licence="cc-by-nc-4.0")
    assert conversion.licence == "apache-2.0; autoencoder: cc-by-nc-4.0"
    assert conversion.provenance["licence"] == "apache-2.0"
    assert conversion.provenance["autoencoder licence"] == "cc-by-nc-4.0"
    announce(conversion)
    said = capsys.readouterr().out
    assert "THIS AUTOENCODER IS NOT FOR COMMERCIAL USE" in said
    assert "THIS CHECKPOINT" not in said
