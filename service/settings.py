"""What an operator can set: `PERCEPT_*` environment variables, or flags of `percept serve`.

Only the composition root and the command line read this; all other parts are handed what they need.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.logs import LogFormat


class Settings(BaseSettings):
    """Settings of one server. A field's docstring is its documentation wherever it is shown."""

    model_config = SettingsConfigDict(
        env_prefix="PERCEPT_", use_attribute_docstrings=True, frozen=True, extra="forbid"
    )

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 picks a free one."""

    model_repo: Path = Path("model_repo")
    """Folder of the model repository; `*_denoiser/V/artifact.json` in it is a served model."""

    backend: Literal["onnx", "triton", "analytic"] = "onnx"
    """`onnx` runs the models in process, `triton` on Triton servers, `analytic` fakes them."""

    triton_urls: str = ""
    """Triton servers, `host:port` of gRPC, several with commas; a host name may mean several."""

    triton_refresh_s: float = Field(default=5.0, gt=0)
    """Seconds after which host names are resolved and the servers' models looked at again."""

    triton_heartbeat_s: float = Field(default=1.0, gt=0)
    """Seconds between two questions whether a Triton server lives; it has twice that to answer."""

    triton_tls: bool = False
    """Whether Triton servers are spoken to by TLS; on with any of the three files below."""

    triton_ca_file: Path | None = None
    """PEM file of the authority that signed the servers' certificates; unset, the system's."""

    triton_cert_file: Path | None = None
    """PEM file of the certificate that this gateway shows to Triton servers."""

    triton_key_file: Path | None = None
    """PEM file of that certificate's key."""

    triton_token: SecretStr | None = None
    """Sent to Triton servers as `authorization: Bearer ...`; without TLS to loopback alone."""

    default_model: str | None = None
    """Model (`name` or `name:version`) for requests that name none; unset, the first by name."""

    devices: str = "auto"
    """Devices that run the models, `cpu` or `cuda:0,cuda:1`; `auto`: all GPUs, or else the CPU."""

    threads: int = Field(default=0, ge=0)
    """Threads that one model call may use; 0 shares the machine's cores among the instances."""

    instances: int = Field(default=1, ge=1)
    """Model calls that may run at the same time on the CPU."""

    max_batch_rows: int = Field(default=64, ge=1)
    """Most rows (members of requests) in one denoiser call; measured costs choose below that."""

    max_image_rows: int = Field(default=16, ge=1)
    """Most rows in one encoder or decoder call; these cost more memory."""

    watchdog_s: float = Field(default=10.0, gt=0)
    """Seconds after which a model call is taken to hang, unless such calls are known to be long.

    After a tenth of them it goes to another worker, if one proves to be quicker.
    """

    outage_s: float = Field(default=30.0, gt=0)
    """Seconds that requests wait while no worker is usable; then they are answered 503."""

    image_threads: int = Field(default=2, ge=1)
    """Threads that render answers, and the most processes that decode uploads."""

    decode_timeout_s: float = Field(default=10.0, gt=0)
    """Seconds that decoding one uploaded image may take; longer ones are answered 413."""

    max_upload_bytes: int = Field(default=25_000_000, ge=1)
    """Bytes that one uploaded file may have."""

    max_pixels: int = Field(default=40_000_000, ge=1)
    """Pixels that one uploaded image may have."""

    min_side: int = Field(default=16, ge=1)
    """Pixels that the shorter side of an uploaded image must have."""

    max_side: int = Field(default=32_768, ge=1)
    """Pixels that the longer side of an uploaded image may have."""

    max_queued_evaluations: int = Field(default=20_000, ge=1)
    """Denoiser evaluations in work or waiting; requests beyond them are answered 429."""

    max_concurrent_requests: int = Field(default=256, ge=1)
    """Predictions in work or waiting; further ones are answered 429 with Retry-After."""

    max_buffered_bytes: int = Field(default=512 * 2**20, ge=1)
    """Bytes of uploads and answers held for all predictions; further ones are answered 429."""

    max_answer_bytes: int = Field(default=256 * 2**20, ge=1)
    """Bytes of member maps that one `all_members` answer may hold."""

    upload_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds within which headers, and then an upload, must have arrived; else answered 408."""

    answer_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds within which an answer must have been read; later the connection is closed."""

    api_keys_file: Path | None = None
    """File of hashed API keys, a line each, as `percept key new` prints them; unset, no keys."""

    admin_key: SecretStr | None = None
    """Key that may load and unload models, or `sha256:` and its hash; unset, nobody may."""

    allow_open: bool = False
    """Whether to listen beyond this machine although there are no API keys."""

    open_metrics: bool = False
    """Whether `/metrics` answers without a key where there are keys."""

    cors_origins: str = ""
    """Origins whose pages may call, such as `https://a.org,https://b.org`; `*` for all."""

    cache_bytes: int = Field(default=64 * 2**20, ge=0)
    """Bytes of answers to given seeds that are kept for the same question; 0 keeps none."""

    cache_age_s: float = Field(default=3600.0, gt=0)
    """Seconds after which a kept answer is made anew."""

    redis_url: str | None = None
    """Redis (`redis://host:6379/0`) that several gateways share; unset, each is on its own."""

    job_folder: Path | None = None
    """Folder, shared by all gateways, for inputs and results of jobs; unset, they lie in Redis."""

    job_workers: int = Field(default=4, ge=0)
    """Jobs (`Prefer: respond-async`) that this gateway runs at a time; 0 only takes them in."""

    job_keep_s: float = Field(default=3600.0, gt=0)
    """Seconds that a job and its result can be asked for after its end."""

    job_lease_s: float = Field(default=30.0, gt=0)
    """Seconds after which the job of a gateway that is not heard of is given to another."""

    job_attempts: int = Field(default=5, ge=1)
    """Gateways that may die with a job in work before it fails: it may be what kills them."""

    max_jobs: int = Field(default=10_000, ge=1)
    """Jobs that may wait or run; further ones are answered 429."""

    max_job_bytes: int = Field(default=2 * 2**30, ge=1)
    """Bytes of inputs and results that are kept for all jobs; further jobs are answered 429."""

    webhook_origins: str = ""
    """Origins that `X-Percept-Callback` may name, such as `https://a.example`, with commas."""

    webhook_secret: SecretStr | None = None
    """Key by which calls to webhooks are signed (HMAC-SHA256); needed if there are origins."""

    shutdown_grace_s: int = Field(default=30, ge=0)
    """Seconds that predictions in work have to finish after SIGTERM."""

    log_format: LogFormat = "text"
    """`text` for people, `json` for machines: an object a line, one for every request."""

    otlp_endpoint: str | None = None
    """Where traces are sent, such as `http://collector:4318/v1/traces`; unset, nowhere."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe message that is logged."""
