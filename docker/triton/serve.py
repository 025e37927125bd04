"""Starts a real Triton server on a model repository, from wheels: no container, no GPU.

`make triton`, or `.venv-triton/bin/python docker/triton/serve.py --repository model_repo`

It becomes the server, so signals reach that: SIGTERM ends it after the requests in work. Models can
be loaded and unloaded while it runs (explicit model control); all of the repository's are loaded
first. gRPC listens on 8001 and metrics on 8002, as Triton has them; HTTP on 8003, since 8000 is the
gateway's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = Path(sys.prefix)
SITE = Path(sysconfig.get_path("purelib"))
SERVER = SITE / "pytriton" / "tritonserver"


def lay_out(folder: Path, onnxruntime: Path) -> None:
    """Make `folder` a backend directory: the python backend, and `onnxruntime` written in it.

    The wheel has a stub of the python backend for each Python; ours belongs beside the library.
    """
    python = SERVER / "backends" / "python"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    files = {
        "python/libtriton_python.so": python / "libtriton_python.so",
        "python/triton_python_backend_utils.py": python / "triton_python_backend_utils.py",
        "python/triton_python_backend_stub": (
            SERVER / "python_backend_stubs" / version / "triton_python_backend_stub"
        ),
        **{f"onnxruntime/{file.name}": file for file in onnxruntime.glob("*.py")},
    }
    for name, source in files.items():
        if not source.exists():
            raise SystemExit(f"{source} is missing: run `make triton`, with a Python it supports")
        _copy(source, folder / name)


def _copy(source: Path, target: Path) -> None:
    """At once, since several servers may start together; Triton refuses links out of the folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copy2(source, fresh)
    fresh.replace(target)


def environment(current: Mapping[str, str]) -> dict[str, str]:
    """What the server needs around it: its libraries, and this Python for the backend's stubs."""
    libraries = (str(SITE / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR")))
    return {
        **current,
        "LD_LIBRARY_PATH": _joined(*libraries, current.get("LD_LIBRARY_PATH")),
        "PATH": _joined(str(VENV / "bin"), current.get("PATH")),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _joined(*parts: str | None) -> str:
    return os.pathsep.join(part for part in parts if part)


def command(options: argparse.Namespace) -> list[str]:
    """The server's command line."""
    listeners = {"http": options.http_port, "grpc": options.grpc_port}
    if options.metrics_port:
        listeners["metrics"] = options.metrics_port
    addresses = [f"--{kind}-address={options.address}" for kind in listeners]
    ports = [f"--{kind}-port={port}" for kind, port in listeners.items()]
    return [
        str(SERVER / "bin" / "tritonserver"),
        f"--backend-directory={options.backends}",
        f"--model-repository={options.repository.resolve()}",
        *addresses,
        *ports,
        f"--allow-metrics={str(bool(options.metrics_port)).lower()}",
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
        "--model-control-mode=explicit",
        f"--load-model={options.load}",
        f"--exit-timeout-secs={options.exit_timeout_s}",
        *options.more,
    ]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="docker/triton/serve.py", description=__doc__)
    add = parser.add_argument
    add("--repository", type=Path, default=HERE.parents[1] / "model_repo")
    add("--address", default="127.0.0.1", help="to listen on; 0.0.0.0 is every interface")
    add("--grpc-port", type=int, default=8001)
    add("--metrics-port", type=int, default=8002, help="0: no metrics")
    add("--http-port", type=int, default=8003)
    add("--load", default="*", help="the model to load at first; * is every one")
    add("--backends", type=Path, default=VENV / "backends", help="folder to lay the backends out")
    add("--onnxruntime", type=Path, default=HERE / "onnxruntime", help="folder of that backend")
    add("--exit-timeout-s", type=int, default=30, help="for requests in work after SIGTERM")
    add("more", nargs="*", help="options of tritonserver itself, after --")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Lay the backends out, then become the server."""
    options = parse(arguments)
    lay_out(options.backends, options.onnxruntime)
    line = command(options)
    os.execve(line[0], line, environment(os.environ))  # noqa: S606  # no shell is meant


if __name__ == "__main__":
    main()
