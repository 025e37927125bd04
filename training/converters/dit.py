"""Diffusion transformers that draw pictures of classes: something to start from, not to serve."""

from __future__ import annotations

from typing import Never

from training.converters.record import ConvertError, Request


def refuse_dit(request: Request) -> Never:
    """Raise ConvertError saying what such a checkpoint is good for.

    Nothing is written, since training reads the published files as they are.
    """
    origin = request.checkpoint.origin
    raise ConvertError(
        f"{origin} draws pictures of classes and answers neither depth, flow nor amodal, so there "
        "is nothing to serve: start a model that does from it, with `python -m training.finetune "
        f"--run NAME --vae FOLDER --init {origin}`"
    )


def refuse_dense_dit(request: Request) -> Never:
    """Raise ConvertError likewise, for a checkpoint that experts can be made of."""
    try:
        refuse_dit(request)
    except ConvertError as error:
        raise ConvertError(
            f"{error}, or experts with `python -m training.upcycle --run NAME --vae FOLDER --dense "
            f"{request.checkpoint.origin}`"
        ) from None
