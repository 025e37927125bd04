"""What a Triton server offers, read from the configurations of its models.

The exporter writes each version's artifact into the configuration of the denoiser, and a checksum
of each version's files into every network's: the server that has the weights says what they are,
and no second copy can drift from them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypedDict

from service.backends.repository import RepositoryError, parse_artifact
from service.core.artifact import Artifact
from service.core.tensors import Signature, Tensor, model_tensors

ARTIFACT, CHECKSUM = "artifact.", "checksum."  # parameters, each followed by a version
_TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}


class TensorConfig(TypedDict, total=False):
    """An input or output in a configuration; `dims` are numbers as text, "-1" for any."""

    name: str
    data_type: str
    dims: list[str]


class Parameter(TypedDict):
    """A free text of a configuration."""

    string_value: str


class ModelConfig(TypedDict, total=False):
    """The part of a Triton model configuration that is read here, as its JSON form has it."""

    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]
    parameters: dict[str, Parameter]


@dataclass(frozen=True)
class Offer:
    """Usable versions, why others are not, and the most rows that each folder takes."""

    artifacts: Mapping[str, Artifact]
    refusals: tuple[str, ...]
    max_rows: Mapping[str, int]

    @property
    def networks(self) -> frozenset[str]:
        """Networks ("folder:version") of the usable versions."""
        return frozenset(name for a in self.artifacts.values() for name in model_tensors(a))


def read_offer(configs: Mapping[str, ModelConfig], ready: Mapping[str, frozenset[str]]) -> Offer:
    """Judge what a server has: configurations by folder, and the versions that are ready."""
    artifacts: dict[str, Artifact] = {}
    refusals: list[str] = []
    for folder, config in sorted(configs.items()):
        for version, text in _parameters(config, ARTIFACT):
            if version not in ready.get(folder, ()):
                continue
            try:
                artifact = _artifact(folder, version, text)
                _check(artifact, configs, ready)
            except RepositoryError as error:
                refusals.append(str(error))
            else:
                artifacts[artifact.key] = artifact
    max_rows = {folder: config.get("max_batch_size", 0) for folder, config in configs.items()}
    return Offer(artifacts, tuple(refusals), max_rows)


def newest(folder: str, config: ModelConfig) -> Artifact | None:
    """The artifact of the highest version in a configuration. Raises RepositoryError."""
    found = sorted(_parameters(config, ARTIFACT), key=lambda item: int(item[0]))
    return _artifact(folder, *found[-1]) if found else None


def _parameters(config: ModelConfig, prefix: str) -> Iterator[tuple[str, str]]:
    """Each version's text of a kind of parameter."""
    for name, parameter in config.get("parameters", {}).items():
        version = name.removeprefix(prefix)
        if version != name and version.isdecimal():
            yield version, parameter["string_value"]


def _artifact(folder: str, version: str, text: str) -> Artifact:
    artifact = parse_artifact(text, f"{folder}'s parameter {ARTIFACT}{version}")
    if (artifact.denoiser, str(artifact.version)) != (folder, version):
        raise RepositoryError(
            f"{folder} has the artifact of {artifact.denoiser}:{artifact.version} as that of its "
            f"version {version}: export the model again"
        )
    return artifact


def _check(
    artifact: Artifact,
    configs: Mapping[str, ModelConfig],
    ready: Mapping[str, frozenset[str]],
) -> None:
    """Raise RepositoryError unless all networks are there, of this export, and as declared."""
    key, version = artifact.key, str(artifact.version)
    signatures = model_tensors(artifact)
    for folder in artifact.folders:
        if version not in ready.get(folder, ()):
            raise RepositoryError(
                f"{key}: {folder} version {version} is not ready there: see the server's log, or "
                "load it"
            )
        config = configs[folder]
        stated = dict(_parameters(config, CHECKSUM)).get(version)
        if stated != artifact.checksum(folder):
            raise RepositoryError(
                f"{key}: {folder} version {version} is not the file that it was exported with (its "
                "checksum differs): copy the whole repository again, and load it"
            )
        wrong = _disagreement(config, signatures[artifact.network(folder)])
        if wrong:
            raise RepositoryError(f"{key}: {folder}: {wrong}: export the model again")


def _disagreement(config: ModelConfig, signature: Signature) -> str | None:
    """What a network takes or gives otherwise than declared."""
    if config.get("max_batch_size", 0) < 1:
        return "it takes no batches"
    for stated, tensors in (
        (config.get("input", []), signature.inputs),
        (config.get("output", []), (signature.output,)),
    ):
        by_name = {tensor["name"]: tensor for tensor in stated}
        if by_name.keys() != {tensor.name for tensor in tensors}:
            return f"it has {sorted(by_name)} where {[tensor.name for tensor in tensors]} belong"
        for tensor in tensors:
            if not _agrees(by_name[tensor.name], tensor):
                return f"{tensor.name} is {by_name[tensor.name]}"
    return None


def _agrees(stated: TensorConfig, tensor: Tensor) -> bool:
    dims = [int(size) for size in stated.get("dims", [])]
    wanted = tensor.shape or (1,)  # a scalar of each row: Triton has no shape without a size
    return (
        stated.get("data_type") == _TYPES[tensor.dtype]
        and len(dims) == len(wanted)
        and all(want is None or size == want for size, want in zip(dims, wanted, strict=True))
    )
