"""What a study leaves behind: its table, the laws fitted to it, and its figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from training.scaling.figure import draw
from training.scaling.fit import PowerLaw, fit_power_law
from training.scaling.records import Row, by_line, write_table
from training.scaling.studies import METRICS, Metric, Study


@dataclass(frozen=True)
class Fitted:
    """The law of one metric along one line of a study."""

    line: str
    metric: Metric
    law: PowerLaw


def fit_study(study: Study, rows: Sequence[Row]) -> list[Fitted]:
    """A fit for every line and metric, of the rows whose x is above 0.

    Lines of the same numbers are fitted once: the loss knows nothing of denoising steps.
    """
    fits: dict[tuple[Metric, tuple[tuple[float, float], ...]], Fitted] = {}
    for metric in study.metrics:
        for line, members in by_line(rows).items():
            pairs = [(study.axis.read(row), float(getattr(row, metric))) for row in members]
            used = tuple((x, y) for x, y in pairs if x > 0)
            if used and (metric, used) not in fits:
                law = fit_power_law(*zip(*used, strict=True))
                fits[metric, used] = Fitted(line, metric, law)
    return list(fits.values())


def write_study(name: str, study: Study, rows: Sequence[Row], folder: Path) -> list[Fitted]:
    """Writes `<name>.csv`, `<name>.json` with the fits and `<name>.png`; returns the fits."""
    write_table(folder / f"{name}.csv", rows)
    fits = fit_study(study, rows)
    record = {
        "x": study.axis.label,
        "fits": [{"line": f.line, "metric": f.metric, **_plain(f.law)} for f in fits],
    }
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    draw(study, rows, {(f.line, f.metric): f.law for f in fits}, folder / f"{name}.png")
    return fits


def _plain(law: PowerLaw) -> dict[str, object]:
    """JSON has no NaN: what was not computed is null."""
    values = asdict(law)
    return {key: None if value != value else value for key, value in values.items()}


def told(fits: Sequence[Fitted]) -> str:
    """One line of text per fit."""
    return "\n".join(f"  {METRICS[f.metric]}, {f.line}: {f.law.verdict}" for f in fits)
