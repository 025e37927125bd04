"""Turns MP3D-Amodal's pickle into the JSON that the reader takes, without trusting the pickle.

A pickle names functions to call while it is opened. This one needs a handful, all of numpy's
making; each is replaced by a class here that only remembers what it was given, and any other name
is an error. So no code of the pickle's choosing runs, not even numpy's own.
"""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from training.data.regions import parse_regions
from training.data.sample import DataError

_FORMS = frozenset("biuf")  # numbers and truth values


class _Kind:
    """In place of `numpy.dtype`: a name such as "i8" and, from its state, the byte order."""

    def __init__(self, name: str, *_: object) -> None:
        self.name, self.order = name, "="

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.order = str(state[1])

    def numpy(self) -> np.dtype[np.generic]:
        kind: np.dtype[np.generic] = np.dtype(f"{self.order}{self.name}")
        if kind.kind not in _FORMS:
            raise DataError(f"values of type {self.name!r}, which is not a number")
        return kind


class _Scalar:
    """In place of a numpy number: its type and bytes."""

    def __init__(self, kind: _Kind, data: bytes) -> None:
        self.kind, self.data = kind, data

    def plain(self) -> object:
        return np.frombuffer(self.data, self.kind.numpy(), count=1).item()


class _Array:
    """In place of a numpy array: its state is (version, shape, type, Fortran order?, bytes)."""

    state: tuple[object, ...] = ()

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.state = state

    def plain(self) -> object:
        _, shape, kind, fortran, data = self.state
        if not (isinstance(shape, tuple) and isinstance(kind, _Kind) and isinstance(data, bytes)):
            raise DataError("an array that is not one of numbers")
        values = np.frombuffer(data, kind.numpy())
        return values.reshape(shape, order="F" if fortran else "C").tolist()


class _ArrayType:
    """In place of the class `numpy.ndarray`, which is named but never called."""


def _from_buffer(data: bytes, kind: _Kind, shape: tuple[int, ...], order: str) -> _Array:
    """In place of the function by which the newest pickles hold arrays."""
    array = _Array()
    array.state = (1, shape, kind, order == "F", bytes(data))
    return array


def _encode(text: str, encoding: str) -> bytes:
    """In place of `_codecs.encode`, by which old pickles hold bytes."""
    if encoding != "latin1":
        raise DataError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin-1")


_NAMES: Mapping[tuple[str, str], Callable[..., object]] = MappingProxyType(
    {
        ("numpy", "dtype"): _Kind,
        ("numpy", "ndarray"): _ArrayType,
        ("numpy.core.multiarray", "scalar"): _Scalar,
        ("numpy._core.multiarray", "scalar"): _Scalar,
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy.core.numeric", "_frombuffer"): _from_buffer,
        ("numpy._core.numeric", "_frombuffer"): _from_buffer,
        ("_codecs", "encode"): _encode,
    }
)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module, name) not in _NAMES:
            raise DataError(f"it asks for {module}.{name}, which no list of regions needs")
        return _NAMES[module, name]


def convert_mp3d(source: Path, out: Path) -> int:
    """Writes the annotations of the pickle `source` as JSON to `out`; how many regions they have.

    Raises DataError if the file is no pickle, asks for anything but plain values and arrays of
    numbers, or does not hold regions; `out` is written at once or not at all.
    """
    content = _load(source)
    num_regions = sum(1 for _ in parse_regions(content, str(source)))
    part = out.with_name(f"{out.name}.part")
    try:
        part.write_text(json.dumps(content))
        os.replace(part, out)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error}") from error
    return num_regions


def _load(source: Path) -> object:
    try:
        with source.open("rb") as file:
            return _plain(_Unpickler(file).load())
    except DataError as error:
        raise DataError(f"{source} is refused: {error}") from error
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error}") from error
    except Exception as error:  # a broken pickle can fail in any way
        raise DataError(f"{source} is not the pickle it should be: {error!r}") from error


def _plain(value: object) -> object:
    """The value in JSON's types; a number that is not finite becomes null."""
    if isinstance(value, _Scalar | _Array):
        return _plain(value.plain())
    if isinstance(value, bytes):
        return value.decode("ascii")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise DataError(f"a value of type {type(value).__name__}")
