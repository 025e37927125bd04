"""A checkpoint's folder: on this machine, or fetched from the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from training.converters.record import ConvertError, Source

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WANTED = ["*.json", "*.txt", "*.safetensors", "*.pt", "*.md", "LICENSE*"]
_UNWANTED = ["*.fp16.*", "*.onnx", "*flax*", "*openvino*"]


def find_checkpoint(origin: str) -> Source:
    """Find a folder by its path, or that of a file; else fetch a hub id's.

    Raises ConvertError in one line.
    """
    path = Path(origin)
    if path.exists():
        return Source(path if path.is_dir() else path.parent, origin)
    if not _HUB_ID.fullmatch(origin):
        raise ConvertError(f"{origin} is no folder, no file and no hub id such as owner/name")
    return Source(_fetch(origin), origin)


def _fetch(hub_id: str) -> Path:
    try:
        import httpx
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ConvertError(
            f"{hub_id} is no folder, and hub ids need huggingface_hub: pip install huggingface_hub"
        ) from None
    try:
        found = snapshot_download(hub_id, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConvertError(
            f"{hub_id} is no folder here and could not be fetched from the hub: {reason}"
        ) from error
    return Path(found)
