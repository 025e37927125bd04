"""The cache of latents: what is encoded, what a kill leaves, and the stream that reads it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_model

from tests.training.test_latent_diffusion_vae import write_small
from training.data.labelled import LabelledPicture
from training.data.latent_set import LatentSet, LatentStream, open_latents
from training.data.read_ahead import ReadAhead
from training.data.sample import DataError
from training.latents import Share, encode_pictures, main, procedural_latents
from training.models.autoencoders import config_of_weights, load_autoencoder, weights_sha256
from training.models.vae import Autoencoder, VaeConfig

CPU = torch.device("cpu")
VAE = VaeConfig(encoder_width=16, encoder_blocks=1, decoder_widths=(16, 16, 8, 8))


class Pictures:
    """Random pictures of three classes; `stop` is the first that cannot be read."""

    classes = ("a", "b", "c")
    identity = "random pictures"

    def __init__(self, count: int, stop: int | None = None) -> None:
        self.count, self.stop = count, stop
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> LabelledPicture:
        if self.stop is not None and index >= self.stop:
            raise KeyboardInterrupt
        self.read.append(index)
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), np.uint8)
        return LabelledPicture(str(index), pixels, index % 3)


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = Autoencoder(VAE)
    model.encoding.latent_mean.normal_()
    model.encoding.latent_std.uniform_(0.5, 2)
    (tmp_path / "vae").mkdir()
    save_model(model, str(tmp_path / "vae" / "vae.safetensors"))
    return tmp_path / "vae"


def filled(source: Pictures, vae: Path, out: Path, **others: bool | int) -> LatentSet:
    chosen = {"size": 16, "mirrored": True, "per_shard": 4, **others}
    latents = encode_pictures(source, vae, out, CPU, **chosen)  # type: ignore[arg-type]
    assert latents is not None
    return latents


@pytest.mark.parametrize("workers", [0, 2])
def test_the_cache_holds_what_the_autoencoder_says(workers: int, vae: Path, tmp_path: Path) -> None:
    source = Pictures(10)
    latents = filled(source, vae, tmp_path / "out", workers=workers)
    assert len(latents) == 10
    assert latents.index.latent_shape == (4, 2, 2)
    assert [shard.count for shard in latents.index.shards] == [4, 4, 2]
    assert latents.index.vae == weights_sha256(vae)
    numbers = np.array([9, 0, 5, 5])
    mirrored = np.array([False, True, True, False])
    found, labels = latents.batch(numbers, mirrored)
    assert labels.tolist() == [0, 0, 2, 2]
    coder = load_autoencoder(vae, CPU)
    for row, (number, mirror) in enumerate(zip(numbers, mirrored, strict=True)):
        image = torch.from_numpy(source[number].image).permute(2, 0, 1)[None] / 127.5 - 1
        expected = coder.encode(image.flip(-1) if mirror else image)[0]
        torch.testing.assert_close(found[row], expected, rtol=1e-3, atol=1e-3)
    assert not torch.equal(found[2], found[3])


def test_the_shape_of_an_autoencoder_is_read_off_its_weights(vae: Path) -> None:
    assert config_of_weights(vae / "vae.safetensors") == VAE


def test_a_killed_run_goes_on_and_leaves_the_same_cache(vae: Path, tmp_path: Path) -> None:
    whole = filled(Pictures(10), vae, tmp_path / "whole")
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        filled(Pictures(10, stop=6), vae, out)
    with pytest.raises(DataError, match="not a finished cache"):
        open_latents(out)
    # What a kill in the middle of writing leaves: a shard under another name, cut short.
    partial = out / ".000001.999.partial"
    partial.mkdir()
    (partial / "latents.npy").write_bytes(b"\x93NUMPY cut")
    again = Pictures(10)
    latents = filled(again, vae, out)
    assert again.read == list(range(4, 10))  # the first shard was there
    assert latents.index == whole.index  # with the checksums of all files
    latents.verify()
    assert not list(out.glob(".*.partial"))
    once_more = Pictures(10)
    filled(once_more, vae, out)
    assert once_more.read == []


def test_shares_fill_one_cache_together(vae: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "out", {"size": 16, "mirrored": False, "per_shard": 3}
    first = encode_pictures(Pictures(10), vae, out, CPU, share=Share(0, 2), **told)  # type: ignore[arg-type]
    assert first is None
    second = encode_pictures(Pictures(10), vae, out, CPU, share=Share(1, 2), **told)  # type: ignore[arg-type]
    assert second is not None
    assert second.index == filled(Pictures(10), vae, tmp_path / "one", **told).index


def test_a_cache_of_other_settings_is_not_gone_on_with(vae: Path, tmp_path: Path) -> None:
    filled(Pictures(4), vae, tmp_path / "out")
    with pytest.raises(DataError, match="begun with mirrored = True, now it is False"):
        filled(Pictures(4), vae, tmp_path / "out", mirrored=False)
    with pytest.raises(DataError, match="count = 4, now it is 5"):
        filled(Pictures(5), vae, tmp_path / "out")
    with pytest.raises(DataError, match="no pictures to encode"):
        filled(Pictures(0), vae, tmp_path / "none")


def test_damage_is_found_and_named(vae: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    filled(Pictures(8), vae, out)
    path = out / "000001" / "latents.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"000001/latents\.npy is not what was written"):
        open_latents(out, verify=True)
    path.write_bytes(data[:-2])
    with pytest.raises(DataError, match=r"000001/latents\.npy cannot be mapped"):
        open_latents(out)
    np.save(path, np.zeros((4, 4, 2, 3), np.float16))
    with pytest.raises(DataError, match=r"latents\.npy holds float16 \(4, 4, 2, 3\), its index"):
        open_latents(out)
    (out / "index.json").write_text("{}")
    with pytest.raises(DataError, match=r"index\.json: source: is missing"):
        open_latents(out)


def test_numbers_beyond_the_set_are_refused(vae: Path, tmp_path: Path) -> None:
    latents = filled(Pictures(4), vae, tmp_path / "out", mirrored=False)
    with pytest.raises(IndexError, match=r"0\.\.4 of 4"):
        latents.batch(np.array([0, 4]))
    with pytest.raises(ValueError, match="no mirrored"):
        latents.batch(np.array([0]), np.array([True]))
    with pytest.raises(DataError, match="encode with --flip"):
        LatentStream(latents, 2, 0, flip=True)


def test_every_epoch_shows_every_picture_once_in_another_order(vae: Path, tmp_path: Path) -> None:
    stream = LatentStream(filled(Pictures(10), vae, tmp_path / "out"), 4, seed=3, flip=False)
    numbers = np.concatenate([stream.indices(index) for index in range(5)])  # two epochs of ten
    assert sorted(numbers[:10]) == sorted(numbers[10:]) == list(range(10))
    assert numbers[:10].tolist() != numbers[10:].tolist()


def test_a_batch_depends_on_seed_and_number_alone(vae: Path, tmp_path: Path) -> None:
    latents = filled(Pictures(10), vae, tmp_path / "out")
    stream = LatentStream(latents, 4, seed=3, flip=True)
    ahead = ReadAhead(LatentStream(latents, 4, seed=3, flip=True).batch)
    expected = {index: stream.batch(index) for index in range(8)}
    for index in (7, 2, 3, 5, 7, 0, 1, 2):
        for found, right in zip(ahead(index), expected[index], strict=True):
            assert torch.equal(found, right)
    other = LatentStream(latents, 4, seed=4, flip=True)
    assert any(not torch.equal(other.batch(i)[0], expected[i][0]) for i in range(8))


def test_half_of_the_pictures_are_mirrored(vae: Path, tmp_path: Path) -> None:
    latents = filled(Pictures(10), vae, tmp_path / "out")
    stream = LatentStream(latents, 50, seed=1, flip=True)
    mirrored = 0
    for index in range(8):
        numbers, (shown, _) = stream.indices(index), stream.batch(index)
        straight = latents.batch(numbers)[0]
        turned = latents.batch(numbers, np.ones(50, np.bool_))[0]
        is_turned = (shown == turned).flatten(1).all(dim=1)
        assert (is_turned | (shown == straight).flatten(1).all(dim=1)).all()
        mirrored += int(is_turned.sum())
    assert 150 < mirrored < 250


def test_rendered_latents_are_made_once(vae: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = procedural_latents(6, 16, vae, out, CPU)
    before = (out / "000000" / "latents.npy").stat().st_mtime_ns
    again = procedural_latents(6, 16, vae, out, CPU)
    assert (out / "000000" / "latents.npy").stat().st_mtime_ns == before
    assert again.index == made.index
    assert "street, dim" in made.index.classes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--procedural", "x"], "--procedural 'x' is not a number"),
        (["--procedural", "4", "--size", "20"], "--size 20 is not a multiple of 8"),
        (["--procedural", "4", "--per-shard", "0"], "--per-shard must be at least 1"),
        (["--procedural", "4", "--share", "2/2"], "'2/2' is not R/W"),
        (["--images", "nowhere"], "nowhere is not a folder"),
        (["--shards", "x-{0..1}.tar"], "shard x-0.tar does not exist"),
        (["--procedural", "4", "--vae", "nowhere"], "nowhere holds no autoencoder"),
    ],
)
def test_the_command_line_says_what_is_wrong(
    arguments: list[str],
    message: str,
    vae: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--vae", str(vae), "--out", str(tmp_path / "out"), *arguments])
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_an_autoencoder_of_diffusers_is_read_as_well(tmp_path: Path) -> None:
    network = write_small(tmp_path / "vae")
    latents = filled(Pictures(3), tmp_path / "vae", tmp_path / "out")
    image = torch.from_numpy(Pictures(3)[1].image).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        expected = network.encode(image).latent_dist.mode() * 0.3
    found, _ = latents.batch(np.array([1]))
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
