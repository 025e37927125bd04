"""What a checkpoint's own text encoder makes of no text: the only prompt that perception needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.converters.config import read_config
from training.converters.record import ConvertError
from training.converters.weights import check_keys, read_tensors, weight_files

_ENCODER, _TOKENIZER = "text_encoder", "tokenizer"
_STEMS = ("model", "pytorch_model")


def text_width(checkpoint: Path) -> int:
    """Channels of the text encoder's output."""
    return read_config(checkpoint / _ENCODER / "config.json").read("hidden_size", int)


def text_files(checkpoint: Path) -> tuple[Path, ...]:
    """Every file that the embedding is computed from."""
    tokenizer = sorted(path for path in (checkpoint / _TOKENIZER).glob("*") if path.is_file())
    if not tokenizer:
        raise ConvertError(f"{checkpoint / _TOKENIZER} holds no tokenizer")
    return (checkpoint / _ENCODER / "config.json", *_weights(checkpoint), *tokenizer)


@torch.no_grad()
def empty_prompt(checkpoint: Path) -> Tensor:
    """The embedding (1, L, D) of the empty prompt, not padded: begin and end."""
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for path in _weights(checkpoint):
        if path.suffix == ".bin":
            read_tensors(path)  # refuses what is no plain dictionary of tensors
    folder = checkpoint / _ENCODER
    try:
        tokenizer = CLIPTokenizer.from_pretrained(checkpoint / _TOKENIZER)
        loaded: Any = CLIPTextModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConvertError(f"{folder} cannot be read: {reason}") from error
    encoder, found = loaded
    check_keys(folder, found["missing_keys"], found["unexpected_keys"])
    tokens = tokenizer(
        "",
        padding="do_not_pad",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    embedding: Tensor = encoder.eval()(tokens.input_ids)[0]
    return embedding.float()


def _weights(checkpoint: Path) -> tuple[Path, ...]:
    folder = checkpoint / _ENCODER
    for stem in _STEMS:
        try:
            return weight_files(folder, stem)
        except ConvertError:
            continue
    raise ConvertError(f"{folder} has no model.safetensors or pytorch_model.bin")
