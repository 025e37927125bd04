"""Turns a public checkpoint into a served model:

`python -m training.convert marigold prs-eth/marigold-depth-v1-1 --name marigold`

The checkpoint is a folder or a hub id. The result is what `training.export` writes: encoder,
denoiser, decoder, and an artifact with everything that the checkpoint's own files say. Networks are
loaded one after the other, and each is held against torch in onnxruntime before any folder of the
repository changes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from service.core.artifact import ArtifactError
from training.converters.hub import find_autoencoder, find_checkpoint
from training.converters.licence import is_non_commercial
from training.converters.marigold import VARIANTS
from training.converters.quantities import QUANTITIES
from training.converters.record import Conversion, ConvertError, Request
from training.converters.table import CONVERTERS
from training.converters.writing import Quantization, Weights, convert
from training.network_cost import multiply_adds_per_s, network_cost
from training.onnx_network import ExportError
from training.onnx_storage import Storage

# What converting was seen to take at most: times the largest network in single precision, in which
# its weights are once, and what Python and its libraries take.
_PEAK, _LIBRARIES = 1.2, 0.8e9
_LICENSED = {"licence": "CHECKPOINT", "autoencoder licence": "AUTOENCODER"}


def estimate(conversion: Conversion, multiply_adds_per_s: float) -> str:
    """What the model will need, for a picture of the shape of a photograph."""
    height, width = conversion.encoders[0].size.example
    costs = {
        part.name: network_cost(part.skeleton(), part.inputs((height, width)))
        for part in conversion.parts
    }
    num_bytes = [cost.num_bytes for cost in costs.values()]
    lines = [
        f"  {name}: {cost.parameters / 1e6:.1f} M parameters, {cost.num_bytes / 1e9:.2f} GB, "
        f"{cost.multiply_adds / 1e9:.1f} G multiply-adds, "
        f"about {cost.seconds(multiply_adds_per_s):.2g} s"
        for name, cost in costs.items()
    ]
    return "\n".join(
        [
            f"One row of a call, for a picture of {width} x {height} px, on this CPU "
            f"({multiply_adds_per_s / 1e9:.0f} G multiply-adds a second in a matrix product):",
            *lines,
            f"Memory: up to {(_PEAK * max(num_bytes) + _LIBRARIES) / 1e9:.2g} GB to convert, "
            f"{sum(num_bytes) / 1e9:.2g} GB and what calls need to serve",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    options = _parser().parse_args(arguments)
    try:
        request = _request(options)
        conversion = CONVERTERS[options.source](request)
        announce(conversion)
        print(estimate(conversion, multiply_adds_per_s()))
        weights = Weights(options.dtype, options.quantize)
        artifact = convert(conversion, options.repository, request.name, options.version, weights)
    except (ArtifactError, ConvertError, ExportError) as error:
        print(f"training.convert: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{artifact.name}:{artifact.version} is in {options.repository}")


def _request(options: argparse.Namespace) -> Request:
    return Request(
        name=options.name,
        checkpoint=find_checkpoint(options.checkpoint),
        vae=None if options.vae is None else find_autoencoder(options.vae),
        resolution=options.resolution,
        steps=options.steps,
        members=options.ensemble,
        variant=options.variant,
        predicts=options.predicts,
        licence=options.licence,
        vae_licence=options.vae_licence,
        heads=options.heads,
    )


def announce(conversion: Conversion) -> None:
    """Prints what a person should know before it starts: notes and licences."""
    for note in conversion.notes:
        print(f"note: {note}")
    print(f"licence: {conversion.licence}")
    for record, what in _LICENSED.items():
        if is_non_commercial(conversion.provenance.get(record, "")):
            print(f"THIS {what} IS NOT FOR COMMERCIAL USE, and neither is what is made of it.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="training.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", choices=list(CONVERTERS), help="family of the checkpoint")
    parser.add_argument("checkpoint", help="folder, or hub id such as prs-eth/marigold-depth-v1-1")
    parser.add_argument("--name", required=True, help="under which it is served")
    parser.add_argument("--repository", type=Path, default=Path("model_repo"))
    parser.add_argument("--version", type=_positive, default=1)
    parser.add_argument("--vae", help="another autoencoder: folder or hub id")
    parser.add_argument("--variant", help=f"marigold: {' or '.join(VARIANTS)}")
    parser.add_argument("--predicts", choices=list(QUANTITIES), help="where no file of it says so")
    parser.add_argument("--resolution", type=_positive, help="longer side in px that pictures get")
    parser.add_argument("--steps", type=_positive, help="default steps of the served model")
    parser.add_argument("--ensemble", type=_positive, help="default members of the served model")
    parser.add_argument("--licence", help="where no file of it says so")
    parser.add_argument("--vae-licence", help="that of --vae, where no file of it says so")
    parser.add_argument("--heads", type=_positive, help="of a transformer of no published size")
    parser.add_argument("--dtype", choices=get_args(Storage), default="fp32", help="of the weights")
    parser.add_argument(
        "--quantize", choices=get_args(Quantization), default="none", help="for the CPU"
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


if __name__ == "__main__":
    main()
