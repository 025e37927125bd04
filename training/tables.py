"""What was measured on public sets, in the layout of the paper's tables, beside published rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rich.console import Console
from rich.table import Table

from training.benchmark_sets import SetResult
from training.protocols import PROTOCOLS
from training.published import REMARKS, ROWS, SOURCES

TITLES: Mapping[int, str] = MappingProxyType(
    {
        3: "Depth, after a fit of scale and shift (Table 3)",
        4: "Optical flow (Table 4)",
        5: "Amodal completion (Table 5)",
    }
)


@dataclass(frozen=True)
class Unit:
    """How a measure is written: its name, what its value is multiplied by, and digits."""

    label: str
    factor: float = 1.0
    digits: int = 2


UNITS: Mapping[str, Unit] = MappingProxyType(
    {
        "abs_rel": Unit("AbsRel %", 100, 1),
        "sq_rel": Unit("SqRel m", 1, 3),
        "rmse": Unit("RMSE m", 1, 3),
        "rmse_log": Unit("RMSE log", 1, 3),
        "log10": Unit("log10", 1, 3),
        "delta1": Unit("δ1 %", 100, 1),
        "delta2": Unit("δ2 %", 100, 1),
        "delta3": Unit("δ3 %", 100, 1),
        "i_rmse": Unit("iRMSE 1/m", 1, 3),
        "si_log": Unit("SIlog", 1, 2),
        "epe": Unit("EPE px"),
        "epe_fitted": Unit("EPE fitted px"),
        "fl_all": Unit("Fl-all %", 100, 1),
        "within_1px": Unit("< 1 px %", 100, 1),
        "within_3px": Unit("< 3 px %", 100, 1),
        "within_5px": Unit("< 5 px %", 100, 1),
        "pixels": Unit("pixels", 1, 0),
        "miou": Unit("mIoU %", 100, 1),
        "miou_summed": Unit("ΣI/ΣU %", 100, 1),
        "hidden_miou": Unit("hidden mIoU %", 100, 1),
        "hidden_miou_summed": Unit("hidden ΣI/ΣU %", 100, 1),
    }
)


@dataclass(frozen=True)
class Measured:
    """What one model made of one set: the result, how it was drawn, and how much was there."""

    result: SetResult
    model: str
    split: str
    steps: int
    input_size: int  # px, the side of the model's square input
    available: int  # samples of the split that were found
    published: int | None  # samples of the split as published, where that is known

    @property
    def method(self) -> str:
        """The name of its row: smaller ensembles of one model have a row of their own."""
        return f"{self.model}, {self.budget}"

    @property
    def budget(self) -> str:
        """What one prediction cost, in the paper's letters: denoising steps and members."""
        return f"T={self.steps} N={self.result.members}"


@dataclass(frozen=True)
class Sheet:
    """A table and the remarks under it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The sheet as a section of a Markdown page."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        notes = "".join(f"- {note}\n" for note in self.notes)
        return f"## {self.title}\n\n{table}\n\n{notes}"

    def show(self, console: Console) -> None:
        """Prints the sheet."""
        table = Table(title=self.title)
        for place, column in enumerate(self.columns):
            table.add_column(column, no_wrap=place == 0)
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        for note in self.notes:
            console.print(f"  {note}", style="dim", highlight=False)


def paper_sheets(measured: Sequence[Measured], whole: bool = True) -> tuple[Sheet, ...]:
    """The paper's tables of which something was measured, in the paper's order.

    Without `whole`, only the columns of sets that were measured and the rows that have them.
    """
    tables = sorted({PROTOCOLS[entry.result.name].table for entry in measured})
    return tuple(_paper_sheet(table, measured, whole) for table in tables)


def _paper_sheet(table: int, measured: Sequence[Measured], whole: bool) -> Sheet:
    ours = [entry for entry in measured if PROTOCOLS[entry.result.name].table == table]
    wanted = {entry.result.name for entry in ours}
    others = [row for row in ROWS if row.table == table and (whole or row.sets & wanted)]
    if whole:
        wanted = wanted.union(*(row.sets for row in others))
    names = [name for name in PROTOCOLS if name in wanted]
    keys = [(name, measure) for name in names for measure in PROTOCOLS[name].columns]
    rows = [
        (
            row.method,
            *(f"{row.cells[key]:g}" if key in row.cells else "" for key in keys),
            row.source,
        )
        for row in others
    ]
    for method in dict.fromkeys(entry.method for entry in ours):
        found = {e.result.name: e.result.means for e in ours if e.method == method}
        cells = (_cell(found.get(name, {}).get(measure), measure) for name, measure in keys)
        rows.append((method, *cells, "measured"))
    headings = (f"{PROTOCOLS[name].heading} {UNITS[measure].label}" for name, measure in keys)
    sources = sorted({row.source for row in others})
    notes = [f"{mark}: {SOURCES[mark]}" for mark in sources]
    notes += [REMARKS[table]] if table in REMARKS else []
    notes += dict.fromkeys(_described(entry) for entry in ours)
    return Sheet(TITLES[table], ("method", *headings, "source"), tuple(rows), tuple(notes))


def full_sheets(measured: Sequence[Measured]) -> tuple[Sheet, ...]:
    """Every mean of every set: a sheet per task, with a row per measure."""
    sheets = []
    for table, title in TITLES.items():
        ours = [entry for entry in measured if PROTOCOLS[entry.result.name].table == table]
        if ours:
            measures = ours[0].result.means
            rows = [
                (UNITS[name].label, *(_cell(entry.result.means[name], name) for entry in ours))
                for name in measures
            ]
            columns = (f"{entry.result.name}, {entry.budget}" for entry in ours)
            sheets.append(Sheet(f"All measures: {title}", ("measure", *columns), tuple(rows)))
    return tuple(sheets)


def _described(entry: Measured) -> str:
    """Which samples were measured and at which size, beside what was published."""
    protocol, scored = PROTOCOLS[entry.result.name], len(entry.result.samples)
    whole = max(entry.available, entry.published or 0)
    kind = "samples" if entry.published else "samples that were found"
    parts = [f"{protocol.heading}: {scored} of {whole} {kind} in {entry.split!r}"]
    if entry.result.unscored:
        parts.append(f"{entry.result.unscored} had nothing to score")
    if scored + entry.result.unscored < whole:
        parts.append("a part of the set, not to be compared with published numbers")
    sides = {None: "not told", 0: "their own resolution"}
    published = sides.get(protocol.side, f"{protocol.side} px")
    parts.append(f"input {entry.input_size} x {entry.input_size} px (published: {published})")
    return ", ".join(parts)


def _cell(value: float | None, measure: str) -> str:
    if value is None or math.isnan(value):
        return ""
    unit = UNITS[measure]
    return f"{value * unit.factor:.{unit.digits}f}"
