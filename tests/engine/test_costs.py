"""What is learnt from calls, to the digit: averages, the batch worth making, and doubt."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.costs import CostTable
from service.engine.groups import Network

NET = Network("net", (4, 8, 8))


def table(*calls: tuple[int, float], device: str = "cpu") -> CostTable:
    costs = CostTable()
    for rows, seconds in calls:
        costs.observe(device, NET, rows, seconds)
    return costs


def test_nothing_is_known_before_the_first_call() -> None:
    costs = CostTable()
    assert costs.seconds("cpu", NET, 1) is None
    assert costs.rate("cpu", NET) is None
    assert costs.rows_per_second(["cpu"], NET) is None
    assert costs.row_seconds(NET) is None
    assert costs.max_rows("cpu", NET, 64) == 2  # one row, and once the double


def test_the_newest_call_weighs_a_fifth() -> None:
    assert table((1, 1.0), (1, 2.0)).seconds("cpu", NET, 1) == pytest.approx(1.2)
    assert table((1, 1.0), (1, 2.0), (1, 2.0)).seconds("cpu", NET, 1) == pytest.approx(1.36)


def test_sizes_are_apart_by_powers_of_two() -> None:
    costs = table((1, 1.0), (5, 4.0), (8, 8.0))  # 5 is nearer to 4 than to 8
    assert costs.seconds("cpu", NET, 5) == pytest.approx(4.0)
    assert costs.seconds("cpu", NET, 8) == pytest.approx(8.0)


def test_between_sizes_it_is_linear_and_beyond_in_proportion() -> None:
    costs = table((2, 1.0), (4, 3.0))
    assert costs.seconds("cpu", NET, 1) == pytest.approx(1.0)
    assert costs.seconds("cpu", NET, 3) == pytest.approx(2.0)
    assert costs.seconds("cpu", NET, 4) == pytest.approx(3.0)
    assert costs.seconds("cpu", NET, 12) == pytest.approx(9.0)


def test_surely_adds_mean_deviations() -> None:
    costs = table((4, 1.0), (4, 2.0))  # mean 1.2, mean absolute deviation 0.2
    assert costs.seconds("cpu", NET, 4, surely=True) == pytest.approx(1.2 + 2.5 * 0.2)
    assert table((4, 1.0)).seconds("cpu", NET, 4, surely=True) == pytest.approx(1.0)


def test_a_clock_that_does_not_move_is_no_error() -> None:
    costs = table((1, 0.0), (1, 0.0))
    assert costs.seconds("cpu", NET, 1, surely=True) == 0.0
    assert costs.rate("cpu", NET) is None


def test_batches_double_while_a_row_gets_a_tenth_cheaper() -> None:
    worth = table((1, 0.01), (2, 0.012), (4, 0.016), (8, 0.032))  # 8 make a row no cheaper
    assert worth.max_rows("cpu", NET, 64) == 4
    assert worth.rate("cpu", NET) == pytest.approx(4 / 0.016)
    assert worth.row_seconds(NET) == pytest.approx(0.004)
    assert table((1, 0.01), (2, 0.0179)).max_rows("cpu", NET, 64) == 4  # 0.895 of the cost
    assert table((1, 0.01), (2, 0.0181)).max_rows("cpu", NET, 64) == 1  # 0.905 is not enough


def test_no_batch_is_grown_beyond_a_quarter_of_a_second() -> None:
    assert table((1, 0.2), (2, 0.24)).max_rows("cpu", NET, 64) == 4  # a larger one is untried
    assert table((1, 0.2), (2, 0.26)).max_rows("cpu", NET, 64) == 1
    assert table((1, 0.3)).max_rows("cpu", NET, 64) == 1


def test_the_next_size_is_tried_and_the_limit_is_kept() -> None:
    costs = table((1, 0.01), (2, 0.01))
    assert costs.max_rows("cpu", NET, 64) == 4
    assert costs.max_rows("cpu", NET, 3) == 3


def test_a_size_that_was_not_worth_it_is_tried_again_after_many_calls() -> None:
    costs = table((1, 0.01), (2, 0.02))
    caps = []
    for _ in range(320):
        costs.observe("cpu", NET, 1, 0.01)
        caps.append(costs.max_rows("cpu", NET, 64))
    assert set(caps[:250]) == {1}
    assert caps[-1] == 2
    costs.observe("cpu", NET, 2, 0.005)
    for _ in range(32):
        costs.observe("cpu", NET, 2, 0.005)  # the machine has changed
    assert costs.max_rows("cpu", NET, 64) == 4


def test_devices_are_apart_and_workers_add_up() -> None:
    costs = table((1, 1.0), (2, 2.0))
    costs.observe("gpu", NET, 1, 0.1)
    assert costs.rows_per_second(["cpu", "cpu"], NET) == pytest.approx(2.0)
    assert costs.rows_per_second(["cpu", "gpu"], NET) == pytest.approx(11.0)
    # a device where it never ran is taken to be like the mean of the others
    assert costs.rows_per_second(["cpu", "gpu", "new"], NET) == pytest.approx(16.5)
    assert costs.seconds("gpu", Network("other", (4, 8, 8)), 1) is None


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 64), st.floats(1e-4, 10.0)), min_size=1, max_size=60),
    st.integers(1, 128),
)
def test_every_prediction_lies_among_what_was_seen(
    calls: list[tuple[int, float]], rows: int
) -> None:
    costs = table(*calls)
    most = max(seconds for _, seconds in calls)
    least = min(seconds for _, seconds in calls)
    seconds = costs.seconds("cpu", NET, rows)
    assert seconds is not None
    assert least * (1 - 1e-9) <= seconds <= most * max(1, rows) * (1 + 1e-9)
    surely = costs.seconds("cpu", NET, rows, surely=True)
    assert surely is not None
    assert surely >= seconds
    cap = costs.max_rows("cpu", NET, 64)
    assert 1 <= cap <= 64
    assert cap & (cap - 1) == 0
