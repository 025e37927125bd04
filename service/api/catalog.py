"""Which models this server has, by name and version."""

from collections.abc import Iterable, Mapping

from service.core.artifact import Artifact, ServedTask
from service.core.tasks import Task, TaskName
from service.errors import InvalidField, Unavailable

_LOOK_AGAIN_S = 1


class Catalog:
    """The served models, which come and go; a name without a version means its newest.

    `chosen` is the model for requests that name none: the first by name when None is given.
    """

    def __init__(self, chosen: str | None = None) -> None:
        self._chosen = chosen
        self.artifacts: Mapping[str, Artifact] = {}
        self._newest: Mapping[str, Artifact] = {}

    def show(self, artifacts: Iterable[Artifact]) -> None:
        """Serve these, and no others, to requests that come from now on."""
        ordered = sorted(artifacts, key=lambda artifact: (artifact.name, -artifact.version))
        self.artifacts = {a.key: a for a in ordered}
        self._newest = {a.name: a for a in reversed(ordered)}

    @property
    def default(self) -> Artifact | None:
        """The model for requests that name none, if it is there."""
        if self._chosen is None:
            return next(iter(self.artifacts.values()), None)
        return self._find(self._chosen)

    def resolve(self, name: str | None, task: Task) -> tuple[Artifact, ServedTask]:
        """Return the model called `name` and its row for a task.

        Raises InvalidField, and Unavailable while there is nothing to choose from.
        """
        artifact = self.default if name is None else self._find(name)
        if artifact is None and (name is None or not self.artifacts):
            raise Unavailable("No model is served at present", retry_after_s=_LOOK_AGAIN_S)
        if artifact is None:
            known = ", ".join(self.artifacts)
            raise InvalidField(f"There is no model {name!r}", field="model", limit=known)
        try:
            return artifact, artifact.served(task.name)
        except KeyError as error:
            able = ", ".join(key for key, a in self.artifacts.items() if serves(a, task.name))
            raise InvalidField(
                f"The model {artifact.key} does not do {task.name}",
                field="model",
                limit=able or "no model here does",
            ) from error

    def able(self, task: Task) -> tuple[Artifact, ...]:
        """The models that do a task, the default first where it does."""
        able = [artifact for artifact in self.artifacts.values() if serves(artifact, task.name)]
        return tuple(sorted(able, key=lambda artifact: artifact is not self.default))

    def _find(self, name: str) -> Artifact | None:
        return self.artifacts.get(name) or self._newest.get(name)


def serves(artifact: Artifact, task: TaskName) -> bool:
    """Whether a model does a task."""
    return any(served.task == task for served in artifact.tasks)
