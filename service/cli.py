"""The command line: `percept serve`, with a flag for every setting."""

import inspect
import logging
import warnings
from types import FrameType
from typing import Annotated

import typer
from pydantic import ValidationError

from service.logs import configure_logging
from service.settings import Settings

main = typer.Typer(name="percept", no_args_is_help=True, pretty_exceptions_enable=False)


@main.callback()
def percept() -> None:
    """Depth, optical flow, amodal completion and surface normals over HTTP."""


def serve(**flags: str | None) -> None:
    """Serve the model repository.

    A flag wins over its PERCEPT_* environment variable, and that over the default.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        raise typer.BadParameter(_explain(error)) from error
    _run(settings)


def _run(settings: Settings) -> None:
    # Imported here: `--help` and a wrong flag need not wait for the runtime to load.
    import uvicorn

    from service.api.security import refuse_public
    from service.api.slow_heads import punctual
    from service.app import create_app
    from service.backends.base import BackendError
    from service.backends.repository import RepositoryError

    configure_logging(settings.log_format, settings.log_level)
    # Pillow warns about odd metadata, in words that the sender of a file chooses: not for our log.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # A line for every form that cannot be parsed: who sent it has been told.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    try:
        has_keys = settings.api_keys_file is not None
        refuse_public(settings.host, has_keys=has_keys, allow_open=settings.allow_open)
        app = create_app(settings)
    except (RepositoryError, BackendError, ValueError) as error:
        typer.echo(f"percept cannot start: {error}", err=True)
        raise typer.Exit(1) from error

    class Server(uvicorn.Server):
        """Tells the application of its end at once, not when the last connection is closed."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            app.state.stopping.set()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
        server_header=False,
        http=punctual(settings.upload_timeout_s),
        ws="none",
        # Where the log is JSON, the server writes to ours, and requests are logged by the service.
        log_config=None if settings.log_format == "json" else uvicorn.config.LOGGING_CONFIG,
        access_log=settings.log_format == "text",
    )
    server = Server(config)
    server.run()
    if not server.started:  # the address is taken, or the application did not start
        raise typer.Exit(1)


_key = typer.Typer(name="key", help="API keys.", no_args_is_help=True)


@_key.command("new")
def new_api_key(
    name: Annotated[str, typer.Argument(help="Whose key it is; shown in logs and refusals.")],
    rate: Annotated[str | None, typer.Option(help="Predictions, such as 60/minute.")] = None,
    evaluations: Annotated[
        str | None, typer.Option(help="Denoiser evaluations, such as 5000/hour.")
    ] = None,
) -> None:
    """Make a key: print it, and the line that PERCEPT_API_KEYS_FILE is to hold of it."""
    from service.api.keys import new_key

    try:
        secret, line = new_key(name, {"rate": rate, "evaluations": evaluations})
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo("For its user, shown this once:", err=True)
    typer.echo(secret)
    typer.echo("For the file of PERCEPT_API_KEYS_FILE:", err=True)
    typer.echo(line)


@_key.callback()
def key() -> None:
    """Keys that callers show."""


def _explain(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())


def _flags() -> inspect.Signature:
    """Return one option per setting, documented as there; the settings themselves parse values."""
    return inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[
                    str | None,
                    typer.Option(help=f"{field.description} Default: {field.default}"),
                ],
            )
            for name, field in Settings.model_fields.items()
        ]
    )


# The flags are the settings by construction: neither can gain a name that the other lacks.
serve.__signature__ = _flags()  # type: ignore[attr-defined]
main.command()(serve)
main.add_typer(_key)
