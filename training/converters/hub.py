"""A checkpoint's folder: on this machine, or fetched from the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from training.converters.record import ConvertError, Source

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# What says how networks are built and published, and the released generalist's only file.
_TOLD = (
    "README.md",
    "LICEN[SC]E*",
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*.json",
    "tokenizer/*.txt",
    "*.pt",
)
# The parts of a model that have weights; one that is an autoencoder alone has them at the top.
_NETWORKS = ("unet", "vae", "text_encoder", ".")
_STEMS = ("diffusion_pytorch_model", "model")
# The preferred first. What a pickle holds is for the person who fetches it to judge.
_KINDS = (".safetensors", ".fp16.safetensors")
_PICKLES = (".bin", ".fp16.bin")


def find_checkpoint(origin: str, parts: Collection[str] = _NETWORKS) -> Source:
    """Find a folder by its path, or that of a file; else fetch a hub id's.

    Of the hub only networks in `parts` are fetched. Raises ConvertError in one line.
    """
    path = Path(origin)
    if path.exists():
        return Source(path if path.is_dir() else path.parent, origin)
    if not _HUB_ID.fullmatch(origin):
        raise ConvertError(f"{origin} is no folder, no file and no hub id such as owner/name")
    return Source(_fetch(origin, parts), origin)


def find_autoencoder(origin: str) -> Source:
    """The same for an autoencoder, alone or in the folder of a model with its scheduler."""
    return find_checkpoint(origin, ("vae", "."))


def wanted_files(hub_id: str, files: Collection[str], parts: Collection[str]) -> list[str]:
    """Those files of a repository that a model is made of: of every network's weights one kind.

    Raises ConvertError for weights that are there as pickles only.
    """
    told = [file for file in files if any(_matches(file, pattern) for pattern in _TOLD)]
    for part in parts:
        config = str(PurePosixPath(part) / "config.json")
        if config in files:
            told += [config, *_weights(hub_id, part, files)]
    return sorted(told)


def _matches(file: str, pattern: str) -> bool:
    """As in a shell: no star goes into a folder."""
    return file.count("/") == pattern.count("/") and fnmatch(file, pattern)


def _weights(hub_id: str, part: str, files: Collection[str]) -> list[str]:
    for stem in _STEMS:
        for kind in _KINDS:
            if found := _of_kind(part, stem, kind, files):
                return found
    for stem in (*_STEMS, "pytorch_model"):
        for kind in _PICKLES:
            if found := _of_kind(part, stem, kind, files):
                raise ConvertError(
                    f"{hub_id} has {found[0]} and no safetensors of it: pickles are not fetched, "
                    "since they may hold more than tensors; fetch the repository yourself and pass "
                    "its folder, where they are read as tensors only"
                )
    return []


def _of_kind(part: str, stem: str, kind: str, files: Collection[str]) -> list[str]:
    """One file, or an index and its shards: what `weight_files` finds later."""
    name = str(PurePosixPath(part) / stem)
    if f"{name}{kind}" in files:
        return [f"{name}{kind}"]
    index = f"{name}{kind}.index.json"
    if index not in files:
        return []
    return [index, *sorted(file for file in files if _matches(file, f"{name}-*-of-*{kind}"))]


def _fetch(hub_id: str, parts: Collection[str]) -> Path:
    """What is wanted of a repository, or where it does not answer what was fetched before."""
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError:
        raise ConvertError(
            f"{hub_id} is no folder, and hub ids need huggingface_hub: pip install huggingface_hub"
        ) from None
    try:
        # One question, without the warnings and the half minute of more that listing files asks.
        files = [file.rfilename for file in HfApi().model_info(hub_id).siblings or ()]
        wanted = wanted_files(hub_id, files, parts)
        return Path(snapshot_download(hub_id, allow_patterns=wanted))
    except ConvertError:
        raise
    except Exception as error:  # its HTTP library, and with it the errors, changed twice
        if (found := _fetched_before(hub_id)) is not None:
            return found
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConvertError(
            f"{hub_id} is no folder here and could not be fetched from the hub: {reason}"
        ) from error


def _fetched_before(hub_id: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    card = try_to_load_from_cache(hub_id, "README.md")  # every public checkpoint has one
    return Path(card).parent if isinstance(card, str) else None
