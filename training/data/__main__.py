"""`python -m training.data check NAME PATH` validates a download and draws some of its samples;
`... list` names the sets.

`... convert-mp3d PICKLE JSON` makes annotations readable without trusting their pickle.

Exit code 0: nothing was found; 1: something was; 2: the command itself is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from training.data.check import Report, check_set, first_split, spread
from training.data.contact_sheet import contact_sheet
from training.data.mp3d_pickle import convert_mp3d
from training.data.sample import DataError
from training.data.set_info import SetInfo
from training.data.sets import SETS, find_set, open_set

MOST_ON_SHEET = 12
MOST_FINDINGS = 40
FINE, FOUND, USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Runs a command and returns the exit code; argparse itself exits with 2."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    return _COMMANDS[parsed.command](parser, parsed, console or Console())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the sets, their licences and the files of a sample")
    check = commands.add_parser("check", help="read a download and draw a contact sheet")
    check.add_argument("name", help=", ".join(SETS))
    check.add_argument("path", type=Path, help="the set's root folder")
    check.add_argument("--split", help="by default the first that is there")
    check.add_argument("--limit", type=_positive, help="read so many samples, evenly spread")
    check.add_argument("--partial", action="store_true", help="do not compare the count")
    check.add_argument(
        "--sheet", type=Path, metavar="FILE.png", help="by default NAME-SPLIT.png in this folder"
    )
    convert = commands.add_parser("convert-mp3d", help="MP3D-Amodal's pickle as JSON")
    convert.add_argument("pickle", type=Path, help="MP3D_seleted_eval_10.29.pkl as published")
    convert.add_argument("json", type=Path, help="the file to write")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _list(_parser: argparse.ArgumentParser, _parsed: argparse.Namespace, console: Console) -> int:
    for info in SETS.values():
        console.print(f"[bold]{info.name}[/]  {info.task}, {info.licence}", highlight=False)
        lines = [
            "splits: " + ", ".join(_counted(info, split) for split in info.splits),
            *(f"file:   {pattern}" for pattern in info.layout),
            f"source: {info.source}",
        ]
        for line in lines:
            console.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)
    return FINE


def _counted(info: SetInfo, split: str) -> str:
    return f"{split} {info.counts[split]:,}" if split in info.counts else split


def _check(parser: argparse.ArgumentParser, parsed: argparse.Namespace, console: Console) -> int:
    try:
        info = find_set(parsed.name)
    except DataError as error:
        parser.error(str(error))
    if parsed.split not in (None, *info.splits):
        parser.error(f"{info.name} has no split {parsed.split!r}, only {', '.join(info.splits)}")
    if not parsed.path.is_dir():
        parser.error(f"{parsed.path} is not a folder")
    if parsed.sheet and parsed.sheet.suffix.lower() not in Image.registered_extensions():
        parser.error(f"{parsed.sheet} has no ending of a picture, such as .png")
    try:
        split = parsed.split or first_split(info, parsed.path)
        progress = partial(track, description="reading", console=console, transient=True)
        report = check_set(info, parsed.path, split, parsed.limit, parsed.partial, progress)
    except DataError as error:
        console.print(f"{info.name} cannot be opened: {error}", markup=False, style="red")
        return FOUND
    _show(report, console)
    if report.read:
        _draw(report, parsed.sheet or Path(f"{info.name}-{split}.png"), console)
    return FOUND if report.findings else FINE


def _show(report: Report, console: Console) -> None:
    measured = report.measured
    published = report.info.counts.get(report.split)
    table = Table(title=f"{report.info.name}, split {report.split}", show_header=False)
    table.add_row("folder", str(report.path))
    table.add_row("samples", f"{report.found:,}" + (f" of {published:,}" if published else ""))
    table.add_row("could be read", f"{len(report.read):,} of {report.tried:,} tried")
    sizes = measured.sizes.most_common(4)
    table.add_row("sizes", ", ".join(f"{size} ({count})" for size, count in sizes))
    if measured.shares:
        mean = sum(measured.shares) / len(measured.shares)
        spans = f"{min(measured.shares):.1%} to {max(measured.shares):.1%}"
        table.add_row(measured.share_of, f"{mean:.1%} on average, {spans}")
    if measured.lows:
        span = f"{min(measured.lows):.4g} to {max(measured.highs):.4g}"
        table.add_row(measured.what, f"{span} {measured.unit}")
    console.print(table)
    _show_findings(report, console)


def _show_findings(report: Report, console: Console) -> None:
    if not report.findings:
        console.print("nothing was found to be wrong", style="green")
        return
    table = Table(title=f"{len(report.findings)} found to be wrong", style="red")
    for column in ("where", "what"):
        table.add_column(column, overflow="fold")
    for finding in report.findings[:MOST_FINDINGS]:
        table.add_row(finding.where, finding.what)
    if len(report.findings) > MOST_FINDINGS:
        table.add_row("...", f"{len(report.findings) - MOST_FINDINGS} more")
    console.print(table)


def _draw(report: Report, path: Path, console: Console) -> None:
    samples = open_set(report.info.name, report.path, report.split)
    chosen = [report.read[i] for i in spread(len(report.read), MOST_ON_SHEET)]
    title = f"{report.info.name}, {report.split}: {len(chosen)} of {report.found:,} samples"
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(title, (samples[index] for index in chosen)).save(path)
    console.print(f"drew {len(chosen)} samples to {path}", markup=False)


def _convert(parser: argparse.ArgumentParser, parsed: argparse.Namespace, console: Console) -> int:
    try:
        count = convert_mp3d(parsed.pickle, parsed.json)
    except DataError as error:
        parser.error(str(error))
    console.print(f"wrote {count:,} regions to {parsed.json}", markup=False)
    return FINE


_Command = Callable[[argparse.ArgumentParser, argparse.Namespace, Console], int]
_COMMANDS: Mapping[str, _Command] = MappingProxyType(
    {"list": _list, "check": _check, "convert-mp3d": _convert}
)

if __name__ == "__main__":
    sys.exit(main())
