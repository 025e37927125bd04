"""A task is a row in every table by task: one that lacks it would fail the first call of it."""

import ast
from collections.abc import Iterator
from pathlib import Path

from service.core.tasks import TASKS

SERVICE = Path(__file__).parents[2] / "service"


def tables() -> Iterator[tuple[str, set[str]]]:
    """The keys of every dictionary that is written out by task in the service, by its place."""
    for path in SERVICE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Dict):
                keys = {key.value if isinstance(key, ast.Constant) else None for key in node.keys}
                names = {key for key in keys if isinstance(key, str)}
                if len(names) == len(keys) > 1 and names <= TASKS.keys():
                    yield f"{path.relative_to(SERVICE)}:{node.lineno}", names


def test_every_table_by_task_has_every_task():
    found = dict(tables())
    assert any(place.startswith("api/docs.py") for place in found)
    lacking = {
        place: TASKS.keys() - names for place, names in found.items() if names < TASKS.keys()
    }
    assert lacking == {}
