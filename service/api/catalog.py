"""Which models this server has, by name and version."""

from collections.abc import Iterable, Mapping

from service.core.artifact import Artifact, ServedTask
from service.core.tasks import Task, TaskName
from service.errors import InvalidField


class Catalog:
    """The served models; a name without a version means its newest.

    `default` is the model for requests that name none: the first by name when None is given. Raises
    ValueError when there is no model at all or the default is not among them.
    """

    def __init__(self, artifacts: Iterable[Artifact], default: str | None = None) -> None:
        ordered = sorted(artifacts, key=lambda artifact: (artifact.name, -artifact.version))
        if not ordered:
            raise ValueError("there is no model to serve")
        self.artifacts: Mapping[str, Artifact] = {a.key: a for a in ordered}
        self._newest = {a.name: a for a in reversed(ordered)}
        self.default = ordered[0] if default is None else self._find(default)

    def resolve(self, name: str | None, task: Task) -> tuple[Artifact, ServedTask]:
        """Return the model called `name` and its row for a task; raises InvalidField."""
        try:
            artifact = self.default if name is None else self._find(name)
        except ValueError as error:
            known = ", ".join(self.artifacts)
            raise InvalidField(str(error), field="model", limit=known) from error
        try:
            return artifact, artifact.served(task.name)
        except KeyError as error:
            able = ", ".join(key for key, a in self.artifacts.items() if serves(a, task.name))
            raise InvalidField(
                f"The model {artifact.key} does not do {task.name}",
                field="model",
                limit=able or "no model here does",
            ) from error

    def _find(self, name: str) -> Artifact:
        artifact = self.artifacts.get(name) or self._newest.get(name)
        if artifact is None:
            raise ValueError(f"there is no model {name!r}; there are {', '.join(self.artifacts)}")
        return artifact


def serves(artifact: Artifact, task: TaskName) -> bool:
    """Whether a model does a task."""
    return any(served.task == task for served in artifact.tasks)
