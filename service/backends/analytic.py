"""A backend with no network: the exact denoiser of Gaussian data, in closed form.

It is the fake that ships. Its answers are known on paper, so samplers, the engine and everything
above can be tested against mathematics; and a service can run on it with no weights at all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from service.backends.base import BackendError, Listener, UnknownModel
from service.core.artifact import Artifact, InputGrid

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class AnalyticWorker:
    """One of several that compute the same."""

    backend: "AnalyticBackend"
    name: str
    device: str = "analytic"
    max_calls: int = 1

    def serves(self, network: str) -> bool:
        """Whether it is one of the artifacts' networks."""
        return self.backend.has(network)

    async def run(self, network: str, inputs: Arrays) -> np.ndarray:
        """Answer for an encoder, denoiser or decoder of the artifacts; see Worker.run."""
        return self.backend.answer(network, inputs)


class AnalyticBackend:
    """Serves artifacts as if x_0 ~ N(scale mu, sigma^2), every pixel on its own.

    mu are the first C channels of the condition (again from the start if it has fewer); the
    condition is the picture, then the prompt, sampled at latent size and repeated to K channels;
    the decoder shows the first three channels of the latent at the first encoder's size. So an
    answer is the picture itself plus noise of deviation sigma / scale. Labels change nothing.
    """

    def __init__(
        self, artifacts: Iterable[Artifact], *, sigma: float = 0.1, num_workers: int = 1
    ) -> None:
        self._sigma = sigma
        self._artifacts = tuple(artifacts)
        self._workers = tuple(AnalyticWorker(self, f"analytic:{i}") for i in range(num_workers))
        self._denoisers: dict[str, Artifact] = {}
        self._decoders: dict[str, Artifact] = {}
        self._encoders: dict[str, Artifact] = {}
        self._alpha_bar: dict[str, np.ndarray] = {}  # float64 (T,) each
        for artifact in self._artifacts:
            denoiser = artifact.network(artifact.denoiser)
            self._denoisers[denoiser] = artifact
            self._decoders[artifact.network(artifact.decoder)] = artifact
            self._encoders.update(
                (artifact.network(encoder.model), artifact) for encoder in artifact.encoders
            )
            self._alpha_bar[denoiser] = artifact.schedule.build().alpha_bar

    @property
    def workers(self) -> Sequence[AnalyticWorker]:
        """They compute on the caller's thread, one after another."""
        return self._workers

    @property
    def artifacts(self) -> Sequence[Artifact]:
        """Those it was made for."""
        return self._artifacts

    def has(self, network: str) -> bool:
        """Whether it is one of the artifacts' networks."""
        return any(network in known for known in (self._encoders, self._denoisers, self._decoders))

    def answer(self, network: str, inputs: Arrays) -> np.ndarray:
        """The output of a network of the artifacts. BackendError for an unknown one."""
        if network in self._denoisers:
            prediction = self._predict(network, inputs)
        elif network in self._encoders:
            prediction = _encode(self._encoders[network], inputs)
        elif network in self._decoders:
            prediction = _decode(self._decoders[network], inputs["latent"])
        else:
            raise BackendError(f"no artifact has a network {network!r}")
        return prediction.astype(np.float32)

    async def open(self, listener: Listener) -> None:
        """Nothing comes or goes."""

    async def load(self, name: str) -> None:
        """Nothing to read again. UnknownModel for a model it was not made for."""
        if all(artifact.name != name for artifact in self._artifacts):
            raise UnknownModel(f"there is no model {name!r}")

    async def unload(self, artifacts: Sequence[Artifact]) -> None:
        """It costs nothing to keep."""

    async def close(self) -> None:
        """Nothing to let go of."""

    def _predict(self, denoiser: str, inputs: Arrays) -> np.ndarray:
        artifact = self._denoisers[denoiser]
        t = inputs["timestep"].astype(np.int64)
        alpha_bar = self._alpha_bar[denoiser][t][:, None, None, None]  # (B, 1, 1, 1)
        x_t = inputs["noisy"].astype(np.float64)
        channels = np.arange(artifact.latent.channels) % artifact.condition_channels
        mean = artifact.latent.scale * inputs["condition"][:, channels].astype(np.float64)
        x_0 = posterior_mean(x_t, mean, self._sigma, alpha_bar)
        if artifact.schedule.prediction_type == "sample":
            return x_0
        eps = (x_t - np.sqrt(alpha_bar) * x_0) / np.sqrt(1 - alpha_bar)
        if artifact.schedule.prediction_type == "epsilon":
            return eps
        return np.sqrt(alpha_bar) * eps - np.sqrt(1 - alpha_bar) * x_0


def posterior_mean(
    x_t: Float64[np.ndarray, "*shape"],
    mean: Float64[np.ndarray, "*shape"],
    sigma: float,
    alpha_bar: Float64[np.ndarray, "..."],
) -> Float64[np.ndarray, "*shape"]:
    """E[x_0 | x_t] of x_0 ~ N(mean, sigma^2), x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps.

    The conditional mean of jointly Gaussian variables: mean + cov(x_0, x_t) / var(x_t) times the
    innovation x_t - E[x_t]. It is the denoiser of least squared error.
    """
    signal = np.sqrt(alpha_bar)
    gain = signal * sigma**2 / (alpha_bar * sigma**2 + 1 - alpha_bar)
    return mean + gain * (x_t - signal * mean)


def _encode(artifact: Artifact, inputs: Arrays) -> np.ndarray:
    pictures = [inputs[name] for name in ("image", "prompt") if name in inputs]
    stacked = np.concatenate(pictures, axis=1)
    height, width = stacked.shape[2:]
    sampled = _resample(stacked, *artifact.latent.size.of((height, width)))
    return sampled[:, np.arange(artifact.condition_channels) % stacked.shape[1]]


def _decode(artifact: Artifact, latent: np.ndarray) -> np.ndarray:
    size, (height, width) = artifact.latent.size, latent.shape[2:]
    shown = artifact.encoders[0].size.example
    if isinstance(size, InputGrid):
        shown = (height * size.factor, width * size.factor)
    image = _resample(latent, *shown)
    return image[:, np.arange(3) % latent.shape[1]]


def _resample(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest pixel, any size to any size."""
    rows = np.arange(height) * images.shape[2] // height
    columns = np.arange(width) * images.shape[3] // width
    return images[:, :, rows[:, None], columns]
