"""The JSON files of a checkpoint, read by field: an error names the file and the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from training.converters.record import ConvertError

T = TypeVar("T", str, int, float, bool)
Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Config:
    """One JSON object. A field that is null counts as left out, as diffusers writes it."""

    path: Path
    values: Mapping[str, object]

    @property
    def name(self) -> str:
        """How messages call the file: with its folder, as in `vae/config.json`."""
        return f"{self.path.parent.name}/{self.path.name}"

    def stated(self, field: str) -> object | None:
        """Whatever the file states, None where it states nothing."""
        return self.values.get(field)

    def read(self, field: str, kind: type[T]) -> T:
        """A field that must be stated."""
        value = self.maybe(field, kind)
        if value is None:
            raise ConvertError(f"{self.path} does not state {field}")
        return value

    def maybe(self, field: str, kind: type[T]) -> T | None:
        """A field that may be left out."""
        value = self.stated(field)
        if value is None:
            return None
        if kind is float and type(value) is int:
            return kind(value)
        # The exact type, since True would pass for 1.
        if type(value) is not kind:
            raise ConvertError(f"{self.path}: {field} must be {kind.__name__}, not {value!r}")
        return value

    def default(self, field: str, kind: type[T], default: T) -> T:
        """A field that the format gives a meaning to when it is left out."""
        value = self.maybe(field, kind)
        return default if value is None else value

    def choose(self, field: str, choices: Mapping[str, Choice]) -> Choice:
        """A field that names one of the things known here."""
        name = self.read(field, str)
        if name not in choices:
            known = ", ".join(choices)
            raise ConvertError(f"{self.path}: {field} is {name!r}; known are {known}")
        return choices[name]

    def numbers(self, field: str) -> tuple[int, ...]:
        """A list of integers that must be stated."""
        value = self.stated(field)
        if not isinstance(value, list) or not value or any(type(item) is not int for item in value):
            raise ConvertError(f"{self.path}: {field} must be a list of integers, not {value!r}")
        return tuple(value)


def read_config(path: Path) -> Config:
    """Read one file; raises ConvertError where there is none or it is no JSON object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConvertError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise ConvertError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConvertError(f"{path} does not hold a JSON object")
    return Config(path, values)
