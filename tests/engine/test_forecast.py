"""Predictions against arithmetic, and against what a worker on a virtual clock really takes."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from service.backends.analytic import AnalyticBackend, AnalyticWorker
from service.backends.repository import ServedModel
from service.engine import batch as arrays
from service.engine.costs import CostTable
from service.engine.forecast import Forecast
from service.engine.groups import Group, Network, Networks
from service.engine.pipeline import Pipeline
from service.engine.pool import Pool
from service.engine.request import Terms
from tests.support.requests import make_request

FIXED_S, ROW_S = 0.004, 0.001  # of a call, and of each of its rows
LATENT = (4, 8, 8)
NETWORKS = Networks(
    Network("tiny_depth_encoder:1", (3, 64, 64)),
    Network("tiny_denoiser:1", LATENT),
    Network("tiny_decoder:1", LATENT),
)


def call_s(rows: int) -> float:
    return FIXED_S + ROW_S * rows


def world(model: ServedModel, workers: int = 1) -> tuple[CostTable, Forecast, Pipeline]:
    costs = CostTable()
    for network in NETWORKS:
        for rows in (1, 2, 4, 8, 16):  # 16 rows are the last that make one a tenth cheaper
            costs.observe("analytic", network, rows, call_s(rows))
    backend = AnalyticBackend([model.artifact], num_workers=workers)
    forecast = Forecast(costs, Pool(backend.workers))
    return costs, forecast, Pipeline(forecast.row_cost)


def test_the_drain_is_the_sum_of_what_is_left(model: ServedModel) -> None:
    costs, forecast, pipeline = world(model, workers=2)
    pipeline.admit(make_request(model, steps=5, members=4), now=0.0)
    row_s = costs.row_seconds(NETWORKS[1])
    assert row_s is not None
    assert forecast.work(pipeline.pending) == pytest.approx((1 + 20 + 4) * row_s / 2)
    unknown = Group("denoise", "other:1", "other", LATENT)
    assert forecast.work({unknown: 100}) == 0
    assert forecast.row_cost(unknown) > 0


def test_alone_a_round_is_one_call_until_the_batch_is_full(model: ServedModel) -> None:
    _, forecast, _ = world(model)
    pace = forecast.pace(NETWORKS, 1, Terms(), (), surely=True)
    assert pace.fixed_ms == pytest.approx(1e3 * call_s(1))
    for members in (1, 2, 7, 16):
        assert pace.step_ms[members - 1] == pytest.approx(1e3 * call_s(members))
        assert pace.finish_ms[members - 1] == pytest.approx(1e3 * call_s(members))
    amodal = forecast.pace(NETWORKS, 2, Terms(), (), surely=True)
    assert amodal.step_ms[4] == pytest.approx(pace.step_ms[9])


def test_workers_share_the_members(model: ServedModel) -> None:
    _, forecast, _ = world(model, workers=5)
    pace = forecast.pace(NETWORKS, 1, Terms(), (), surely=False)
    assert pace.step_ms[4] == pytest.approx(pace.step_ms[0])  # a member each
    assert pace.step_ms[9] == pytest.approx(1e3 * call_s(2))


def test_others_slow_a_request_down_by_their_share_at_most(model: ServedModel) -> None:
    _, forecast, pipeline = world(model)
    pipeline.admit(make_request(model, steps=5, members=6), now=0.0)

    def step_ms(terms: Terms) -> float:
        return forecast.pace(NETWORKS, 1, terms, pipeline, surely=False).step_ms[3]

    assert step_ms(Terms()) == pytest.approx(1e3 * call_s(8))  # 4 rows, and 4 of the other's 6
    assert step_ms(Terms(priority="low")) == pytest.approx(1e3 * call_s(10))  # all its 6
    assert step_ms(Terms(priority="high")) == pytest.approx(1e3 * call_s(5))  # a quarter of 4


def test_a_deadline_waits_for_earlier_ones_only(model: ServedModel) -> None:
    _, forecast, pipeline = world(model)
    request = make_request(model, steps=10, members=4)
    due = [replace(request, terms=Terms(deadline=moment)) for moment in (5.0, 7.0, 9.0)]
    alone = forecast.finish(due[1], ())
    assert alone == pytest.approx(call_s(1) + 11 * call_s(4))
    pipeline.admit(due[2], now=0.0)
    assert forecast.finish(due[1], pipeline) == pytest.approx(alone)
    pipeline.admit(due[0], now=0.0)
    work = forecast.work(pipeline.pending) / 2
    assert forecast.finish(due[1], pipeline) == pytest.approx(alone + work)
    pipeline.admit(request, now=0.0)  # without one: a quarter of the share of those with one
    expected = min(alone + 2 * work, (alone + work) * 1.25)
    assert forecast.finish(due[1], pipeline) <= expected + 1e-9


def test_a_watchdog_is_patient_with_what_is_slow_or_new(model: ServedModel) -> None:
    costs, forecast, _ = world(model)
    assert forecast.watchdog("analytic", NETWORKS[1], 1, 10.0) == 10.0
    assert forecast.watchdog("analytic", Network("new", LATENT), 1, 10.0) == 60.0
    costs.observe("slow", NETWORKS[1], 1, 2.0)
    assert forecast.watchdog("slow", NETWORKS[1], 1, 10.0) == 40.0


@settings(deadline=None, max_examples=4, derandomize=True, phases=[Phase.generate])
@given(st.integers(0, 2**32))
def test_the_predicted_drain_is_what_a_worker_takes(model: ServedModel, seed: int) -> None:
    """One worker, costs as measured, requests together; a virtual clock."""
    costs, forecast, pipeline = world(model)
    chance = random.Random(seed)
    mix = [(chance.choice((1, 4, 10, 25)), chance.randint(1, 5)) for _ in range(10)]
    for number, (steps, members) in enumerate(mix):
        pipeline.admit(make_request(model, steps=steps, members=members, seed=number), now=0.0)
    predicted, now = forecast.work(pipeline.pending), 0.0
    worker: AnalyticWorker = AnalyticBackend([model.artifact]).workers[0]

    def max_rows(group: Group) -> int:
        return costs.max_rows("analytic", group.network, 64)

    while (batch := pipeline.next_batch(max_rows, 1, now)) is not None:
        inputs = arrays.INPUTS[batch.group.stage](batch.rows)
        output = worker.backend.answer(batch.group.model, inputs).astype(np.float32)
        now += call_s(len(batch.rows))
        costs.observe("analytic", batch.group.network, len(batch.rows), call_s(len(batch.rows)))
        pipeline.absorb(batch.group, batch.rows, inputs, output, now)
    assert len(pipeline) == 0
    assert predicted == pytest.approx(now, rel=0.25)
