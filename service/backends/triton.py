"""Triton over gRPC: the only home of tritonclient in the service."""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tritonclient.grpc.aio import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from service.backends.addresses import Address, Endpoint
from service.backends.base import BackendError, LoadError, UnknownModel
from service.backends.offers import ModelConfig, Offer, newest, read_offer
from service.backends.repository import RepositoryError
from service.backends.servers import NotThere, Unreachable

T = TypeVar("T")

_TYPES = {"float32": "FP32", "int64": "INT64"}
_READY = "READY"
_NOT_THERE = "Request for unknown model"  # of a version that was let go, with status UNAVAILABLE
_ERRORS: Mapping[str, type[BackendError]] = {
    # After these the server may be another one.
    "StatusCode.UNAVAILABLE": Unreachable,
    "StatusCode.CANCELLED": Unreachable,
    "StatusCode.DEADLINE_EXCEEDED": Unreachable,
    "StatusCode.NOT_FOUND": NotThere,
}
_CHANNEL = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # a server that was restarted is to be found at once, not after gRPC's two minutes
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # despite its name the least time that an attempt has: a busy server takes a while to greet
    ("grpc.min_reconnect_backoff_ms", 3000),
    ("grpc.use_local_subchannel_pool", 1),
)
_LOAD_S = 600.0  # a large model takes minutes


@dataclass(frozen=True)
class TritonAccess:
    """How servers are spoken to: by TLS with any of these files, and with a token if there is one.

    Raises ValueError for files that do not belong together.
    """

    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("triton_cert_file and triton_key_file belong together")
        for path in (self.ca_file, self.cert_file, self.key_file):
            if path is not None and not path.is_file():
                raise ValueError(f"there is no file {path}")

    @property
    def is_secure(self) -> bool:
        """Whether connections are encrypted."""
        return self.tls or self.ca_file is not None or self.cert_file is not None

    def headers(self, address: Address) -> dict[str, str] | None:
        """What goes with every question to a server at an IP address.

        Raises BackendError where anybody on the way could read the token.
        """
        if self.token is None:
            return None
        if not self.is_secure and not ip_address(address.host).is_loopback:
            raise BackendError(
                "the token is not sent without TLS but to loopback: set PERCEPT_TRITON_TLS, or "
                "PERCEPT_TRITON_CA_FILE"
            )
        bearer = f"Bearer {self.token}"
        # The first is for a proxy before Triton, the second for its --grpc-restricted-protocol.
        return {"authorization": bearer, "triton-grpc-protocol-authorization": bearer}


class TritonServer:
    """One server; see Server."""

    def __init__(self, access: TritonAccess, endpoint: Endpoint) -> None:
        def text(path: Path | None) -> str | None:
            return None if path is None else str(path)

        # The certificate is for the name that was given, not for the address that it means now.
        named = (("grpc.ssl_target_name_override", endpoint.name),) if access.is_secure else ()
        self._client = InferenceServerClient(
            str(endpoint.address),
            ssl=access.is_secure,
            root_certificates=text(access.ca_file),
            private_key=text(access.key_file),
            certificate_chain=text(access.cert_file),
            channel_args=[*_CHANNEL, *named],
        )
        self._access, self._address = access, endpoint.address

    @property
    def _headers(self) -> dict[str, str] | None:
        return self._access.headers(self._address)

    async def examine(self) -> Offer:
        """Read the configuration of every model that is ready."""
        ready: dict[str, set[str]] = {}
        for folder, version, state in await self.list_models():
            if state == _READY:
                ready.setdefault(folder, set()).add(version)
        configs = {folder: await self._config(folder) for folder in sorted(ready)}
        return read_offer(configs, {name: frozenset(found) for name, found in ready.items()})

    async def beat(self) -> None:
        """Ask whether it lives."""
        if not await self._ask(self._client.is_server_live(headers=self._headers)):
            raise Unreachable("it says that it does not live")

    async def list_models(self) -> frozenset[tuple[str, str, str]]:
        """The index of its repository, with what it has not loaded."""
        index = await self._ask(self._client.get_model_repository_index(headers=self._headers))
        return frozenset((model.name, model.version, model.state) for model in index.models)

    async def infer(self, network: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Send the inputs, bring back the single output."""
        folder, _, version = network.rpartition(":")
        result = await self._ask(
            self._client.infer(
                folder, [_tensor(*item) for item in inputs.items()], version, headers=self._headers
            )
        )
        (output,) = result.get_response().outputs
        array: np.ndarray = result.as_numpy(output.name)
        return array

    async def load(self, name: str) -> str:
        """Load the denoiser, which names the others, and then those."""
        denoiser = f"{name}_denoiser"
        if all(folder != denoiser for folder, *_ in await self.list_models()):
            raise UnknownModel(f"there is no model {name!r}")
        await self._load(denoiser)
        try:
            artifact = newest(denoiser, await self._config(denoiser))
        except RepositoryError as error:
            raise LoadError(str(error)) from error
        if artifact is None:
            raise LoadError(f"{denoiser}'s configuration has no artifact: export the model again")
        for folder in artifact.folders:
            if folder != denoiser:
                await self._load(folder)
        return artifact.key

    async def unload(self, folder: str) -> None:
        """Let go of all versions of a network."""
        try:
            await self._ask(self._client.unload_model(folder, headers=self._headers))
        except BackendError as error:
            raise LoadError(str(error)) from error

    async def close(self) -> None:
        """Hang up."""
        await self._client.close()

    async def _load(self, folder: str) -> None:
        load = self._client.load_model(folder, headers=self._headers, client_timeout=_LOAD_S)
        try:
            await self._ask(load)
        except BackendError as error:
            raise LoadError(str(error)) from error

    async def _config(self, folder: str) -> ModelConfig:
        answer: Any = await self._ask(
            self._client.get_model_config(folder, headers=self._headers, as_json=True)
        )
        config: ModelConfig = answer["config"]
        return config

    async def _ask(self, question: Awaitable[T]) -> T:
        try:
            return await question
        except InferenceServerException as error:
            kind = _ERRORS.get(error.status(), BackendError)
            if error.message().startswith(_NOT_THERE):
                kind = NotThere
            raise kind(error.message()) from error


def _tensor(name: str, values: np.ndarray) -> InferInput:
    if values.ndim == 1:  # a scalar of each row: Triton has no shape without a size
        values = values[:, None]
    tensor = InferInput(name, list(values.shape), _TYPES[values.dtype.name])
    tensor.set_data_from_numpy(values)
    return tensor
