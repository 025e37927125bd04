"""Runs the paper's scaling studies.

`python -m training.scaling all --scale tiny --out runs/scaling` trains small networks on rendered
scenes and leaves `<study>.csv`, `<study>.png` and `<study>.json` with the fitted laws in `--out`; a
second call goes on where the first one stopped, and several at once, one per GPU and study, share
the folder: none trains what another one is training. `--plan` prints every network instead, with
its parameters, multiply-adds and GPU hours. At `--scale paper` the data are real: `--data` (a
folder with `hypersim` in it), `--vae` (a diffusers AutoencoderKL) and `--classes` (latents of
ImageNet, written by `training.latents`).

`python -m training.scaling report DIR` writes the measured numbers into `training/SCALING.md` and
the figures beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from training.checkpoint import CheckpointError
from training.data.sample import DataError
from training.distributed import LaunchError, is_first_process, own_device
from training.loop import DivergedError
from training.scaling.plan import show_plan
from training.scaling.report import ReportError, write_report
from training.scaling.runner import Laboratory, Sources
from training.scaling.scales import SCALES
from training.scaling.studies import STUDIES
from training.scaling.table import told, write_study


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: see the module's docstring. Ends with one sentence where it cannot go on."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.study == "report":
            write_report(options.folder)
        elif options.plan:
            show_plan(_chosen(options.study), SCALES[options.scale], options.peak, options.mfu)
        else:
            _run(parser, options)
    except (ReportError, DataError, CheckpointError, DivergedError, LaunchError) as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="training.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=[*STUDIES, "all", "report"])
    parser.add_argument("folder", type=Path, nargs="?", help="of `report`: what --out was")
    parser.add_argument("--scale", choices=SCALES, default="tiny")
    parser.add_argument("--out", type=Path, help="folder of tables, figures and networks")
    parser.add_argument("--data", type=Path, help="folder with the depth data sets in it")
    parser.add_argument("--vae", type=Path, help="folder of a diffusers AutoencoderKL")
    parser.add_argument("--classes", type=Path, help="latents for pre-training")
    parser.add_argument("--plan", action="store_true", help="print what would be trained, and stop")
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of one GPU, for --plan")
    parser.add_argument("--mfu", type=float, default=0.4, help="share of it reached, for --plan")
    parser.add_argument("--eager", action="store_true", help="render without compiling")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def _chosen(study: str) -> tuple[str, ...]:
    return tuple(STUDIES) if study == "all" else (study,)


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.out is None:
        parser.error("--out is needed: the folder of tables, figures and networks")
    scale, sources = SCALES[options.scale], Sources(options.data, options.vae, options.classes)
    if scale.coder is None:
        given = {"--data": sources.data, "--vae": sources.vae, "--classes": sources.classes}
        if missing := [name for name, path in given.items() if path is None]:
            parser.error(f"--scale {scale.name} needs {', '.join(missing)}")
    options.out.mkdir(parents=True, exist_ok=True)
    device = own_device(options.device)
    laboratory = Laboratory(scale, options.out, device, sources, compiled=not options.eager)
    for name in _chosen(options.study):
        study = STUDIES[name]
        rows = laboratory.measured(study.points(scale))
        if is_first_process():
            print(f"{name}\n{told(write_study(name, study, rows, options.out))}", flush=True)


if __name__ == "__main__":
    main()
