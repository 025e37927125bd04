"""Under which terms a checkpoint was published, as far as its folder tells."""

from __future__ import annotations

import re
from pathlib import Path

from training.converters.record import ConvertError, Source

_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"^(license|license_name):\s*[\"']?([^\"'\n]+?)[\"']?\s*$", re.MULTILINE)
_NON_COMMERCIAL = re.compile(r"non-?\s?commercial|(^|[^a-z])nc([^a-z]|$)|research[ -]only", re.I)


def read_licence(source: Source, given: str | None, flag: str = "--licence") -> str:
    """The licence of a checkpoint: `given`, or what its README.md or licence file says.

    Raises ConvertError where nobody says it.
    """
    stated = _from_readme(source.folder / "README.md") or _from_file(source.folder)
    if given is None and stated is None:
        raise ConvertError(
            f"no file in {source.folder} states a licence (README.md: license, or LICENSE): "
            f"pass {flag}"
        )
    if given is None or stated is None or given.casefold() == stated.casefold():
        return given or stated or ""
    return f"{given} (the checkpoint's own files say {stated})"


def is_non_commercial(licence: str) -> bool:
    """Whether a licence seems to forbid commercial use."""
    return _NON_COMMERCIAL.search(licence) is not None


def _from_readme(path: Path) -> str | None:
    if not path.is_file():
        return None
    front = _FRONT_MATTER.match(path.read_text(encoding="utf-8", errors="replace"))
    fields = dict(_FIELD.findall(front[1])) if front else {}
    # "other" only announces that the name follows.
    if fields.get("license") == "other":
        return fields.get("license_name", "other")
    return fields.get("license")


def _from_file(folder: Path) -> str | None:
    """The first line of the licence's text that says something."""
    for path in sorted(folder.glob("LICEN[SC]E*")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.strip() for line in lines if line.strip()), None)
    return None
