"""Figures like the paper's: errors against multiply-adds, both logarithmic, laws dashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from training.scaling.fit import PowerLaw
from training.scaling.records import Row, by_line
from training.scaling.studies import METRICS, Metric, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES = 4.0  # side of one panel
_DPI = 80
_MARKERS = "os^vD*Px<>"


def draw(
    study: Study, rows: Sequence[Row], laws: Mapping[tuple[str, Metric], PowerLaw], path: Path
) -> None:
    """Writes the study's figure: a panel per metric, a colour per line, a point per row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = len(study.metrics)
    figure = Figure(figsize=(_INCHES * panels + 2.4, _INCHES), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for metric, panel in zip(study.metrics, axes, strict=True):
        _panel(panel, study, rows, metric, laws)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=7, frameon=False)
    figure.suptitle(study.title, fontsize=11)
    figure.savefig(path, dpi=_DPI)


def _panel(
    panel: Axes,
    study: Study,
    rows: Sequence[Row],
    metric: Metric,
    laws: Mapping[tuple[str, Metric], PowerLaw],
) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import (
        FormatStrFormatter,
        LogFormatterSciNotation,
        LogLocator,
        MaxNLocator,
        NullLocator,
    )

    lines = by_line(rows)
    colours = colormaps["tab10" if len(lines) <= 10 else "tab20"]
    for index, (line, members) in enumerate(lines.items()):
        colour, marker = colours(index % colours.N), _MARKERS[index % len(_MARKERS)]
        shown = sorted((study.axis.read(row), float(getattr(row, metric))) for row in members)
        x, y = np.array([point for point in shown if point[0] > 0]).reshape(-1, 2).T
        panel.plot(x, y, marker, ms=4, color=colour, label=line)
        for level in [value for at, value in shown if at == 0]:
            panel.axhline(level, color=colour, lw=0.8, ls=":")
        law = laws.get((line, metric))
        if law is None:
            continue  # its points lie on another line's
        if law.supported:
            at = np.geomspace(x.min(), x.max(), 50)
            panel.plot(at, law(at), "--", lw=1, color=colour)
        else:
            centre = np.unique(x)
            panel.plot(centre, [y[x == c].mean() for c in centre], "-", lw=0.4, color=colour)
    panel.set_xscale("log")
    decades = LogLocator(subs=(1, 3))
    panel.xaxis.set_major_locator(decades)
    panel.xaxis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))
    panel.xaxis.set_minor_formatter("")
    if all(float(getattr(row, metric)) > 0 for row in rows):
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(MaxNLocator(7))  # errors span less than a decade
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FormatStrFormatter("%.3g"))
    panel.set_xlabel(study.axis.label, fontsize=8)
    panel.set_title(METRICS[metric], fontsize=9)
    panel.tick_params(labelsize=7, which="both")
    panel.grid(visible=True, which="both", lw=0.2)
