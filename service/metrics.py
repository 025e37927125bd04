"""What the service counts, for Prometheus. One registry per application, none global."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_STEPS = (1, 2, 4, 10, 20, 50, 100, 200)
_MEMBERS = (1, 2, 3, 5, 8, 10, 15, 20)
_ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters and histograms of one application; `exposition` renders them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._workers: list[Counter] = []
        self.requests = Counter(
            "percept_http_requests",
            "HTTP requests answered; status 499 is a client that hung up.",
            ["route", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "percept_http_request_seconds",
            "Seconds from the request's headers to the last byte of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.refusals = Counter(
            "percept_refusals",
            "Requests answered with a problem, by its reason; `fault` is one of ours.",
            ["reason", "status"],
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "percept_requests_in_flight",
            "Predictions admitted whose answer is not yet sent.",
            registry=self.registry,
        )
        self.buffered_bytes = Gauge(
            "percept_buffered_bytes",
            "Bytes of uploads and answers held for the predictions in flight.",
            registry=self.registry,
        )
        self.evaluations = Counter(
            "percept_evaluations",
            "Denoiser rows evaluated for answered predictions.",
            ["task", "model"],
            registry=self.registry,
        )
        self.plan_steps = Histogram(
            "percept_plan_steps",
            "Denoising steps of the plans made, by who chose them: model, caller, a budget, auto.",
            ["task", "chosen_by"],
            buckets=_STEPS,
            registry=self.registry,
        )
        self.plan_members = Histogram(
            "percept_plan_members",
            "Members (for auto: the most) of the plans made, by who chose them.",
            ["task", "chosen_by"],
            buckets=_MEMBERS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "percept_stage_seconds",
            "Seconds an answered prediction spent in each stage.",
            ["task", "stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )

        self.cache = Counter(
            "percept_cache",
            "Predictions whose answer could have been kept: found (hit), or made (miss).",
            ["result"],
            registry=self.registry,
        )
        self.cache_bytes = Gauge(
            "percept_cache_bytes", "Bytes of the answers that are kept.", registry=self.registry
        )

        self.call_seconds = Histogram(
            "percept_model_call_seconds",
            "Seconds inside one call of a network.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.call_rows = Histogram(
            "percept_model_call_rows",
            "Rows that shared one call of a network.",
            ["stage"],
            buckets=_ROWS,
            registry=self.registry,
        )

        self.worker_batches = self._per_worker("batches", "Calls that a worker answered.")
        self.worker_rows = self._per_worker("rows", "Rows that a worker answered.")
        self.worker_seconds = self._per_worker("busy_seconds", "Seconds inside a worker's calls.")
        self.worker_errors = self._per_worker("errors", "Calls that failed, hung or gave nonsense.")
        self.worker_up = Gauge(
            "percept_worker_up",
            "1 while a worker is given calls, 0 while it is down.",
            ["worker"],
            registry=self.registry,
        )

        self.pending_evaluations = Gauge(
            "percept_pending_evaluations",
            "Denoiser evaluations that admitted predictions still need.",
            registry=self.registry,
        )
        self.drain_seconds = Gauge(
            "percept_drain_seconds",
            "Predicted seconds until everything admitted now is answered.",
            registry=self.registry,
        )

        self.jobs = Gauge(
            "percept_jobs",
            "Asynchronous calls that the store keeps, of all gateways that share it.",
            ["state"],
            registry=self.registry,
        )
        self.job_bytes = Gauge(
            "percept_job_bytes",
            "Bytes of inputs and results of jobs that the store keeps.",
            registry=self.registry,
        )
        self.job_store_up = Gauge(
            "percept_job_store_up",
            "1 while what keeps the jobs answers, 0 while asynchronous calls are refused.",
            registry=self.registry,
        )

    def watch_queue(self, evaluations: Callable[[], int], drain_s: Callable[[], float]) -> None:
        """Read these whenever the metrics are."""
        self.pending_evaluations.set_function(evaluations)
        self.drain_seconds.set_function(drain_s)

    def watch_cache(self, num_bytes: Callable[[], int]) -> None:
        """Read this whenever the metrics are."""
        self.cache_bytes.set_function(num_bytes)

    def jobs_counted(self, jobs: Mapping[str, int] | None, num_bytes: int) -> None:
        """Note what the store of jobs holds; None where it is gone: its counts are not known."""
        self.job_store_up.set(jobs is not None)
        self.job_bytes.set(num_bytes)
        self.jobs.clear()
        for state, number in (jobs or {}).items():
            self.jobs.labels(state).set(number)

    def worker_changed(self, name: str, condition: Literal["up", "down", "leaving"]) -> None:
        """Note that a worker came up, went down or leaves; the engine's observer."""
        if condition != "leaving":
            self.worker_up.labels(name).set(condition == "up")
            return
        # Addresses of servers come and go without end: what has gone is forgotten.
        for series in (self.worker_up, *self._workers):
            with suppress(KeyError):
                series.remove(name)

    def call_failed(self, worker: str, stage: str) -> None:
        """Count a call that gave nothing of use; the engine's observer."""
        del stage
        self.worker_errors.labels(worker).inc()

    def planned(self, task: str, chosen_by: str, steps: int, members: int) -> None:
        """Count a plan."""
        self.plan_steps.labels(task, chosen_by).observe(steps)
        self.plan_members.labels(task, chosen_by).observe(members)

    def model_call(self, worker: str, stage: str, rows: int, seconds: float) -> None:
        """Count one call of a network; the engine's observer."""
        self.worker_batches.labels(worker).inc()
        self.worker_rows.labels(worker).inc(rows)
        self.worker_seconds.labels(worker).inc(seconds)
        self.call_seconds.labels(stage).observe(seconds)
        self.call_rows.labels(stage).observe(rows)

    def _per_worker(self, name: str, text: str) -> Counter:
        counter = Counter(f"percept_worker_{name}", text, ["worker"], registry=self.registry)
        self._workers.append(counter)
        return counter

    def exposition(self) -> bytes:
        """Return every metric in Prometheus' text format."""
        return generate_latest(self.registry)
