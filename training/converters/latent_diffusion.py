"""What every latent diffusion model of a picture shares, whatever family it is of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from service.core.artifact import EncoderSpec, InputGrid, LatentSpec, LongestEdge
from training.converters.autoencoder import Autoencoder, read_autoencoder
from training.converters.licence import read_licence
from training.converters.record import ConvertError, Request, Source
from training.served_model import sha256


def encoder_spec(model: str, resolution: int, factor: int) -> EncoderSpec:
    """An encoder of pictures whose longer side is `resolution` px."""
    if resolution < factor or resolution % factor:
        raise ConvertError(
            f"the processing resolution must be a multiple of {factor} px, not {resolution}"
        )
    return EncoderSpec(model, LongestEdge(resolution, factor), prompt=False, label=False)


def latent_spec(autoencoder: Autoencoder) -> LatentSpec:
    """Latents that follow the picture's shape."""
    return LatentSpec(autoencoder.channels, InputGrid(autoencoder.factor), autoencoder.scale)


def chosen_autoencoder(request: Request) -> Autoencoder:
    """The autoencoder that was asked for, else the checkpoint's own."""
    if request.vae is None:
        return read_autoencoder(request.checkpoint.folder / "vae")
    nested = request.vae.folder / "vae"
    return read_autoencoder(nested if nested.is_dir() else request.vae.folder)


def licences(request: Request) -> str:
    """The licence of everything that goes into the model."""
    return "; autoencoder: ".join(_licences(request).values())


def _licences(request: Request) -> dict[str, str]:
    """The licence of the checkpoint, and that of the autoencoder which replaces its own."""
    found = {"": read_licence(request.checkpoint, request.licence)}
    if request.vae is not None:
        found["autoencoder "] = read_licence(request.vae, request.vae_licence, "--vae-licence")
    elif request.vae_licence is not None:
        raise ConvertError("--vae-licence is for another autoencoder: pass --vae too")
    return found


def provenance(
    request: Request, family: str, files: Iterable[Path], notes: Sequence[str]
) -> dict[str, str]:
    """Where a model came from: the digest of every file that it is made of, and every note."""
    record = {"source": family}
    places = {"": request.checkpoint}
    if request.vae is not None:
        places = {"": request.checkpoint, "autoencoder ": request.vae}
    for what, source in places.items():
        record |= _named(what, source)
    record |= {f"{what}licence": licence for what, licence in _licences(request).items()}
    for path in files:
        for what, source in places.items():
            if path.is_relative_to(source.folder):
                inside = path.relative_to(source.folder).as_posix()
                record[f"sha256 {what}{inside}"] = sha256(path)
                break
    return {**record, **{f"note {i}": note for i, note in enumerate(notes, 1)}}


def _named(what: str, source: Source) -> dict[str, str]:
    """A hub id with its commit, which its folder is named by; of what lies here just the name."""
    if (path := Path(source.origin)).exists():
        return {f"{what}checkpoint": path.resolve().name}
    return {f"{what}checkpoint": source.origin, f"{what}revision": source.folder.name}
