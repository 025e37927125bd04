"""The autoencoder of latent diffusion against diffusers' own use of it."""

import json
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from training.checkpoint import CheckpointError
from training.models.latent_diffusion_vae import (
    LatentDiffusionVae,
    LatentDiffusionVaeConfig,
    load_autoencoder,
    read_config,
)
from training.onnx_network import Network, check_onnx, write_onnx

CPU = torch.device("cpu")
AutoencoderKL: Any = import_module("diffusers").AutoencoderKL


def write_small(folder: Path, **others: object) -> Any:
    """A random AutoencoderKL with four levels, as a folder of diffusers."""
    torch.manual_seed(3)
    network = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        scaling_factor=0.3,
        **others,
    ).eval()
    network.save_pretrained(folder)
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vae")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return write_small(folder)


@pytest.fixture(scope="module")
def ours(folder: Path, theirs: Any) -> LatentDiffusionVae:
    return load_autoencoder(folder, CPU)


@pytest.fixture
def picture() -> torch.Tensor:
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def test_encoding_is_the_scaled_mean_and_decoding_undoes_the_scale(
    ours: LatentDiffusionVae, theirs: Any, picture: torch.Tensor
):
    mean = theirs.encode(picture).latent_dist.mode()
    latent = ours.encode(picture)
    assert latent.shape == (2, 4, 4, 6)
    torch.testing.assert_close(latent, 0.3 * mean)
    assert latent.std() > 0.01
    torch.testing.assert_close(ours.decode(latent), theirs.decode(mean).sample)
    assert torch.equal(ours.encode(picture), latent)


@torch.no_grad()
def test_a_shifted_latent_without_quantisation_layers(tmp_path: Path, picture: torch.Tensor):
    theirs = write_small(
        tmp_path,
        latent_channels=8,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    ours = load_autoencoder(tmp_path, CPU)
    assert ours.config.latent_channels == 8
    mean = theirs.encode(picture).latent_dist.mode()
    torch.testing.assert_close(ours.encode(picture), 0.3 * (mean - 0.1))
    torch.testing.assert_close(
        ours.decode(ours.encode(picture)), theirs.decode(mean).sample, rtol=1e-3, atol=1e-4
    )


def test_nothing_of_it_learns_and_its_encoding_shares_weights(ours: LatentDiffusionVae):
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    own = {id(parameter) for parameter in ours.parameters()}
    assert {id(parameter) for parameter in ours.frozen_encoding().parameters()} < own


def test_its_shape_is_read_from_the_folder(folder: Path, ours: LatentDiffusionVae):
    expected = LatentDiffusionVaeConfig(
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.3,
    )
    assert read_config(folder) == ours.config == expected
    rebuilt = LatentDiffusionVae(expected)
    rebuilt.load_state_dict(ours.state_dict(), strict=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "AutoencoderTiny"}, "AutoencoderKL"),
        ({"block_out_channels": [8, 16, 16]}, "one cell of 8 px"),
        ({"act_fn": "gelu"}, "silu"),
        ({"latents_mean": [0.0]}, "latents_mean"),
        ({"layers_per_block": "two"}, "layers_per_block"),
    ],
)
def test_a_folder_of_another_network_is_refused(
    folder: Path, theirs: Any, tmp_path: Path, change: dict[str, object], message: str
):
    plain = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**plain, **change}))
    with pytest.raises(CheckpointError, match=message):
        load_autoencoder(tmp_path, CPU)


def test_a_folder_without_weights_or_description_is_refused(
    folder: Path, theirs: Any, tmp_path: Path
):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_autoencoder(tmp_path, CPU)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_autoencoder(tmp_path, CPU)


class Decoding(torch.nn.Module):
    def __init__(self, vae: LatentDiffusionVae) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(latent)


def test_both_halves_answer_in_onnxruntime_as_in_torch(
    ours: LatentDiffusionVae, tmp_path: Path, picture: torch.Tensor
):
    assert onnxruntime.get_available_providers()
    latent = ours.encode(picture)
    networks = [
        Network("encoder", ours.frozen_encoding(), {"image": picture}, "condition"),
        Network("decoder", Decoding(ours), {"latent": latent}, "image"),
    ]
    for network in networks:
        path = tmp_path / f"{network.name}.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own
            write_onnx(network, path)
        assert check_onnx(network, path) < 2e-4
