"""The autoencoder."""

import pytest
import torch

from training.models.vae import Autoencoder, VaeConfig

CONFIG = VaeConfig(encoder_width=16, encoder_blocks=1, decoder_widths=(16, 16, 8, 8))


@pytest.fixture
def model() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(CONFIG)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 96)])
def test_eight_pixels_are_one_cell_both_ways(model: Autoencoder, height: int, width: int):
    latent = model.encode(torch.rand(2, 3, height, width) * 2 - 1)
    assert latent.shape == (2, 4, height // 8, width // 8)
    assert model.decode(latent).shape == (2, 3, height, width)


def test_latents_are_normalised_and_decoding_undoes_it(model: Autoencoder):
    picture = torch.rand(2, 3, 32, 32) * 2 - 1
    raw, decoded = model.encode(picture), model.decode(model.encode(picture))
    model.encoding.latent_mean.copy_(torch.tensor([1.0, -2.0, 0.0, 3.0]))
    model.encoding.latent_std.copy_(torch.tensor([0.5, 2.0, 1.0, 4.0]))
    latent = model.encode(picture)
    torch.testing.assert_close(latent[:, 1], (raw[:, 1] + 2) / 2)
    torch.testing.assert_close(latent[:, 3], (raw[:, 3] - 3) / 4)
    torch.testing.assert_close(model.decode(latent), decoded, rtol=1e-4, atol=1e-5)


def test_the_frozen_encoding_shares_its_weights(model: Autoencoder):
    frozen = model.frozen_encoding()
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert any(parameter.requires_grad for parameter in model.decoder.parameters())
    picture = torch.rand(1, 3, 32, 32)
    before = frozen(picture)
    with torch.no_grad():
        for parameter in model.encoding.encoder.parameters():
            parameter.add_(0.1)
    assert not torch.equal(frozen(picture), before)
    assert torch.equal(frozen(picture), model.encode(picture))
