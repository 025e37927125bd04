"""Writes a checkpoint as a served model:

`python -m training.export runs/shipped --name percept --repository model_repo`

The result is a Triton model repository of one encoder per task, the denoiser and the decoder, with
`artifact.json` beside the denoiser. `--version 2` goes beside version 1. Weights are stored in half
precision and computed with in single. Every network is run in onnxruntime and held against torch
before any folder of the repository changes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from service.core.artifact import (
    MAX_MEMBERS,
    MAX_STEPS,
    Artifact,
    CalibrationPoint,
    EncoderSpec,
    FixedGrid,
    FixedSize,
    LatentSpec,
    ServedTask,
)
from service.core.budget import Choice, cheapest
from service.core.tasks import TaskName
from training.config import in_one_sentence
from training.data.shares import PROCEDURAL
from training.finetuned import load_model, read_description
from training.judges import JUDGES
from training.models.perception import ModelConfig, PerceptionModel
from training.onnx_network import Network, check_onnx, round_weights, write_onnx
from training.report import CALIBRATION, TaskReport, read_reports
from training.served_model import adding_version, network_files, write_artifact
from training.served_networks import encoder_name, has_prompt, networks

_NAMES: Mapping[TaskName, str] = {
    "depth": "depth",
    "flow": "optical flow",
    "amodal": "amodal completion",
}
_RENDERED = "training.data, rendered while training"


def default_budget(points: Sequence[CalibrationPoint]) -> tuple[int, int]:
    """The cheapest measured (steps, members) of "standard" quality; (1, 1) of nothing."""
    if not points:
        return 1, 1
    measured = [
        Choice(point.steps, point.members, point.error, point.steps * point.members)
        for point in points
    ]
    best = min(point.error for point in points)
    chosen = cheapest(measured, best, "standard")
    return chosen.steps, chosen.members


def served_tasks(
    name: str, config: ModelConfig, reports: Iterable[TaskReport]
) -> tuple[ServedTask, ...]:
    """The artifact's row of every task, with its measured errors where there is a report."""
    measured = {report.task: report for report in reports}
    return tuple(_served_task(name, config, task, measured.get(task)) for task in config.tasks)


def _served_task(
    name: str, config: ModelConfig, task: TaskName, report: TaskReport | None
) -> ServedTask:
    points = tuple(
        CalibrationPoint(point.steps, point.members, point.error)
        for point in (report.points if report else ())
        if point.steps <= MAX_STEPS and point.members <= MAX_MEMBERS
    )
    steps, members = default_budget(points)
    return ServedTask(
        task=task,
        encoder=encoder_name(name, task),
        prompt="second" if has_prompt(task) else "none",
        prompt_value=0.0,
        encoder_label=0,
        components=config.components(task),
        encoding=config.table.encoding(task),
        steps=steps,
        max_steps=MAX_STEPS,
        members=members,
        reduction=JUDGES[task].reduction,
        calibration=points,
        error_metric=report.metric if report else "",
    )


def export(run: Path, repository: Path, name: str, version: int, licence: str) -> Artifact:
    """Writes the model of a finished run into `repository`, in place of that version of the name.

    Other versions stay. Raises ExportError, which leaves the repository as it was, CheckpointError,
    and ArtifactError for a calibration that is not one.
    """
    reports = read_reports(run / CALIBRATION) if (run / CALIBRATION).is_file() else ()
    model = load_model(run, torch.device("cpu"))
    round_weights(model)
    torch.manual_seed(0)
    with adding_version(repository, name) as folder:
        for network in networks(model, name):
            _write(network, folder, version)
        artifact = _describe(run, model, name, version, licence, reports, network_files(folder))
        write_artifact(artifact, folder)
    return artifact


def _write(network: Network, folder: Path, version: int) -> None:
    path = folder / network.name / str(version) / "model.onnx"
    write_onnx(network, path)
    worst = check_onnx(network, path)
    size = path.stat().st_size / 1e6
    print(f"{network.name}: {size:.1f} MB, differs from torch by {worst:.1e}")


def _describe(
    run: Path,
    model: PerceptionModel,
    name: str,
    version: int,
    licence: str,
    reports: Iterable[TaskReport],
    files: Mapping[str, str],
) -> Artifact:
    config, described = model.config, read_description(run)
    data = described.data
    return Artifact(
        format=1,
        name=name,
        version=version,
        description=_description(config, data),
        licence=licence,
        provenance={
            "form": config.form,
            "steps": str(described.steps),
            "seed": str(described.seed),
            "data": ", ".join(_RENDERED if name == PROCEDURAL else name for name in data),
        },
        schedule=config.schedule,
        latent=LatentSpec(
            config.vae.latent_channels, FixedGrid(config.latent_size, config.latent_size), 1.0
        ),
        condition_channels=config.condition_channels,
        timestep_dtype="int64",
        has_labels=True,
        encoders=tuple(
            EncoderSpec(
                encoder_name(name, task),
                FixedSize(config.input_size(task), config.input_size(task)),
                prompt=has_prompt(task),
                label=False,
            )
            for task in config.tasks
        ),
        denoiser=f"{name}_denoiser",
        decoder=f"{name}_decoder",
        tasks=served_tasks(name, config, reports),
        files=files,
    )


def _description(config: ModelConfig, data: Sequence[str]) -> str:
    """One sentence: what the model does, and what it learned from."""
    *others, last = (_NAMES[task] for task in config.tasks)
    tasks = f"Generalist for {', '.join(others)} and {last}" if others else f"Model for {last}"
    sources = ["rendered scenes" if name == PROCEDURAL else name for name in data]
    return f"{tasks}, trained on {', '.join(sources)}"


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="training.export", description=__doc__)
    parser.add_argument("run", type=Path, help="folder that training.finetune wrote")
    parser.add_argument("--repository", type=Path, default=Path("model_repo"))
    parser.add_argument("--name", default="percept")
    parser.add_argument("--version", type=int, default=1, help="beside which others may lie")
    parser.add_argument("--licence", default="Apache-2.0")
    options = parser.parse_args(arguments)
    with in_one_sentence(parser):
        export(options.run, options.repository, options.name, options.version, options.licence)


if __name__ == "__main__":
    main()
