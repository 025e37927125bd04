"""What an answer says of itself beside its file."""

from collections.abc import Mapping

from service.api.finish import Served

_INLINE = ("image/png", "application/json")  # what a browser shows rather than saves


def _caching(served: Served) -> Mapping[str, str]:
    """Say what may be kept: an answer of a seed that was given, by its caller, asking each time."""
    if served.etag is None:
        return {"Cache-Control": "no-store"}
    headers = {"Cache-Control": "private, no-cache", "ETag": served.etag}
    if served.age_s is not None:
        headers["Age"] = str(int(served.age_s))
    return headers


def prediction_headers(served: Served) -> Mapping[str, str]:
    """Return the headers of an answer, but for its media type."""
    rendered, run = served.rendered, served.run
    timing = ", ".join(f"{stage};dur={ms:.3f}" for stage, ms in served.timings.items()) or "cache"
    placing = "inline" if rendered.media_type in _INLINE else "attachment"
    spread, expected = served.uncertainty, run.expected_error
    return {
        "X-Percept-Steps": str(run.steps),
        "X-Percept-Ensemble": str(run.ensemble),
        "X-Percept-Evaluations": str(run.evaluations),
        "X-Percept-Seed": str(run.seed),
        "X-Percept-Model": run.model,
        "Server-Timing": timing,
        "Content-Disposition": f'{placing}; filename="{run.task}.{rendered.extension}"',
        "X-Percept-Cache": served.cache,
        **_caching(served),
        **rendered.headers,
        **({} if expected is None else {"X-Percept-Expected-Error": f"{expected:.6g}"}),
        **({} if spread is None else {"X-Percept-Uncertainty": f"{spread:.6g}"}),
    }
