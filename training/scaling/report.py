"""Puts measured numbers into `training/SCALING.md`, so that its tables are what was measured.

What lies between the two marks is replaced; everything else on the page is written by hand.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.scaling.records import Row, by_line, read_table
from training.scaling.studies import METRICS, STUDIES, Study
from training.scaling.table import Fitted, fit_study

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PAGE = Path(__file__).parents[1] / "SCALING.md"
FIGURES = Path(__file__).parent / "figures"


class ReportError(Exception):
    """A folder without results, or a page without its marks."""


def write_report(folder: Path | None, page: Path = PAGE, figures: Path = FIGURES) -> None:
    """Replaces the measured part of `page`, and figures and tables, by what is in `folder`.

    Raises ReportError where either is not what it should be.
    """
    if folder is None or not folder.is_dir():
        raise ReportError(f"report needs the folder of finished studies, not {folder}")
    done = [name for name in STUDIES if (folder / f"{name}.csv").is_file()]
    if not done:
        raise ReportError(f"{folder} holds no table of any study")
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ReportError(f"{page} lacks the lines {BEGIN} and {END}")
    figures.mkdir(exist_ok=True)
    parts = [_overview(folder, done)]
    for name in done:
        for ending in ("png", "csv"):
            shutil.copyfile(folder / f"{name}.{ending}", figures / f"{name}.{ending}")
        parts.append(section(name, STUDIES[name], read_table(folder / f"{name}.csv")))
    measured = "\n".join(parts)
    page.write_text(f"{before}{BEGIN}\n\n{measured}\n{END}{after}")
    print(f"wrote {page}: {', '.join(done)}")


def _overview(folder: Path, done: Sequence[str]) -> str:
    lines = ["| study | the paper | measured here |", "|---|---|---|"]
    for name in done:
        study = STUDIES[name]
        fits = fit_study(study, read_table(folder / f"{name}.csv"))
        lines.append(f"| [{name}](#{name}) | {study.claim} | {_summary(study, fits)} |")
    return "\n".join(lines) + "\n"


def _summary(study: Study, fits: Sequence[Fitted]) -> str:
    told = []
    for metric in study.metrics:
        own = [fit.law for fit in fits if fit.metric == metric]
        falling = sorted(law.b for law in own if law.supported and law.b < 0)
        rising = sum(law.supported and law.b > 0 for law in own)
        text = f"{METRICS[metric]}: falling law on {len(falling)} of {len(own)} lines"
        if falling:
            text += f" (exponent {' to '.join(dict.fromkeys(_ends(falling)))})"
        told.append(text + (f", rising on {rising}" if rising else ""))
    return "; ".join(told)


def _ends(values: Sequence[float]) -> tuple[str, str]:
    return f"{values[0]:.3f}", f"{values[-1]:.3f}"


def section(name: str, study: Study, rows: Sequence[Row]) -> str:
    """One study: its figure, its points and its laws, in Markdown."""
    lines = [f"### {name}", "", f"![{study.title}](scaling/figures/{name}.png)", ""]
    shown = [*study.metrics]
    lines.append(
        f"| line | model | {study.axis.label} | " + " | ".join(METRICS[m] for m in shown) + " |"
    )
    lines.append("|---|---|---|" + "---|" * len(shown))
    lines += _points(study, rows)
    lines += ["", f"| line | metric | law in C = {study.axis.label} |", "|---|---|---|"]
    lines += [
        f"| {fit.line} | {METRICS[fit.metric]} | {fit.law.verdict} |"
        for fit in fit_study(study, rows)
    ]
    return "\n".join(lines) + "\n"


def _points(study: Study, rows: Sequence[Row]) -> Iterator[str]:
    for line, members in by_line(rows).items():
        for row in sorted(members, key=study.axis.read):
            values = " | ".join(f"{float(getattr(row, metric)):.4f}" for metric in study.metrics)
            yield f"| {line} | {_told(row)} | {study.axis.read(row):.3g} | {values} |"


def _told(row: Row) -> str:
    """The model and what differs between rows of one line."""
    return f"{row.model}, {row.size} px, T {row.steps}, N {row.members}, seed {row.seed}"
