"""Strict JSON to frozen dataclasses and back, driven by their annotations.

Every key must be present, none may be extra, and no value is coerced, save an integer where a float
is asked for. Understands str, int, float, bool, Literal, `tuple[X, ...]`, `Mapping[str, X]`,
dataclasses, unions of dataclasses told apart by their `kind`, and None as a member of a union.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


class ArtifactError(ValueError):
    """A field, named by its JSON `path`, is missing, unknown or holds what it must not."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path or 'artifact'}: {reason}")
        self.path = path
        self.reason = reason


def require(condition: bool, path: str, reason: str) -> None:
    """Raise ArtifactError for `path`, relative to the record that checks it, unless met."""
    if not condition:
        raise ArtifactError(path, reason)


def load_record(kind: type[T], text: str) -> T:
    """Parse one record; raises ArtifactError naming the first field that is wrong."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError("", f"not valid JSON: {error}") from error
    return _read(kind, value, "")


def dump_record(record: object) -> str:
    """Write a dataclass as JSON that `load_record` turns into an equal one."""
    if not dataclasses.is_dataclass(record) or isinstance(record, type):
        raise TypeError(f"{record!r} is not a dataclass instance")
    return json.dumps(dataclasses.asdict(record), indent=2, allow_nan=False) + "\n"


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key appears twice in one object")
    return record


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _read(kind: Any, value: object, path: str) -> Any:
    """Read `value` as the annotation `kind`, which types as Any since unions are not types."""
    origin = get_origin(kind)
    if origin is UnionType:
        return _read_union(kind, value, path)
    if origin is Literal:
        allowed = get_args(kind)
        # By type as well: True == 1, but a format of true is a mistake.
        if not any(type(value) is type(choice) and value == choice for choice in allowed):
            raise ArtifactError(path, f"must be one of {list(allowed)}, got {value!r}")
        return value
    if origin is tuple:
        item_kind = get_args(kind)[0]
        items = _expect(list, value, path)
        return tuple(_read(item_kind, item, f"{path}[{i}]") for i, item in enumerate(items))
    if origin is Mapping:
        item_kind = get_args(kind)[1]
        entries = _expect(dict, value, path)
        return {key: _read(item_kind, item, _join(path, key)) for key, item in entries.items()}
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, path)
    if kind is float:
        return _read_float(value, path)
    return _expect(kind, value, path)


def _read_dataclass(kind: Any, value: object, path: str) -> Any:
    record = _expect(dict, value, path)
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    for name in names:
        require(name in record, _join(path, name), "is missing")
    for name in record:
        require(name in names, _join(path, name), "is not a known field")
    values = {name: _read(hints[name], record[name], _join(path, name)) for name in names}
    try:
        return kind(**values)
    except ArtifactError as error:  # from __post_init__, which does not know where the record lies
        raise ArtifactError(_join(path, error.path), error.reason) from None


def _read_union(kind: Any, value: object, path: str) -> Any:
    members = [member for member in get_args(kind) if member is not NoneType]
    if value is None and len(members) < len(get_args(kind)):
        return None
    if len(members) == 1:
        return _read(members[0], value, path)
    tag = _expect(dict, value, path).get("kind")
    for member in members:
        if tag in get_args(get_type_hints(member)["kind"]):
            return _read(member, value, path)
    raise ArtifactError(_join(path, "kind"), f"is unknown: {tag!r}")


def _read_float(value: object, path: str) -> float:
    number = value if type(value) is float else _expect(int, value, path, named="float")
    try:
        finite = math.isfinite(number)
    except OverflowError:  # an integer beyond any float
        finite = False
    require(finite, path, "must be finite")
    return float(number)


def _expect(kind: type[T], value: object, path: str, named: str = "") -> T:
    # The exact type, since JSON gives no others and bool is a subclass of int.
    if type(value) is not kind:
        got = type(value).__name__
        raise ArtifactError(path, f"must be {named or kind.__name__}, got {got}")
    return value


def _join(path: str, name: str) -> str:
    # A list element's own path starts with a bracket.
    return f"{path}.{name}" if path and name else path or name
