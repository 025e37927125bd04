"""What an answer costs after the engine, learnt: never below the mean, close once it is known."""

import numpy as np
import pytest

from service.api.render_costs import RenderCosts, RenderKind, RenderSize

KIND = RenderKind("depth", "color", "median")
OTHER = RenderKind("depth", "npz", "aligned")


def cost(size: RenderSize) -> float:
    return 3.0 + 2.0 * size.members + 40.0 * size.megapixels


def trained(noise: float, num_samples: int = 200) -> RenderCosts:
    generator = np.random.default_rng(0)
    costs = RenderCosts()
    for _ in range(num_samples):
        size = RenderSize(int(generator.integers(1, 21)), float(generator.uniform(0.1, 12)))
        costs.learn(KIND, size, cost(size) * (1 + noise * generator.standard_normal()))
    return costs


def test_before_the_first_answer_a_generous_guess():
    (small, large) = RenderCosts().predict_ms(KIND, [RenderSize(1, 0.1), RenderSize(20, 12.0)])
    assert 0 < small < large
    assert RenderCosts().typical_ms(KIND, RenderSize(1, 1.0)) == 0


def test_an_exact_law_is_found():
    costs = trained(0.0)
    sizes = [RenderSize(1, 1.0), RenderSize(20, 1.0), RenderSize(5, 10.0)]
    np.testing.assert_allclose(costs.predict_ms(KIND, sizes), [cost(s) for s in sizes], rtol=1e-6)
    assert costs.typical_ms(KIND, sizes[0]) == pytest.approx(cost(sizes[0]))


def test_predictions_stay_above_nearly_all():
    costs = trained(0.1)
    generator = np.random.default_rng(1)
    sizes = [RenderSize(5, float(x)) for x in generator.uniform(1, 12, 1000)]
    actual = [cost(s) * (1 + 0.1 * generator.standard_normal()) for s in sizes]
    above = np.mean(np.array(costs.predict_ms(KIND, sizes)) >= actual)
    assert above > 0.85
    assert costs.predict_ms(KIND, sizes)[0] < 2 * cost(sizes[0])


def test_one_sample_neither_shrinks_nor_stays():
    costs = RenderCosts()
    costs.learn(KIND, RenderSize(3, 2.0), 50.0)
    same, smaller, larger = costs.predict_ms(
        KIND, [RenderSize(3, 2.0), RenderSize(1, 0.1), RenderSize(3, 20.0)]
    )
    assert same == pytest.approx(50)
    assert smaller == pytest.approx(50)
    assert larger >= 50


def test_an_unknown_kind_costs_what_the_dearest_of_its_task_does():
    costs = RenderCosts()
    size = RenderSize(1, 1.0)
    costs.learn(KIND, size, 10.0)
    assert costs.predict_ms(OTHER, [size]) == pytest.approx((10.0,))
    costs.learn(OTHER, size, 90.0)
    unknown = RenderKind("depth", "json", "mean")
    assert costs.predict_ms(unknown, [size]) == pytest.approx((90.0,))
    assert costs.predict_ms(KIND, [size]) == pytest.approx((10.0,))
    (flow,) = costs.predict_ms(RenderKind("flow", "color", "mean"), [size])
    assert flow == RenderCosts().predict_ms(OTHER, [size])[0]


def test_old_samples_are_forgotten():
    costs = RenderCosts()
    size = RenderSize(1, 1.0)
    costs.learn(KIND, size, 10_000.0)
    for _ in range(64):
        costs.learn(KIND, size, 10.0)
    assert costs.predict_ms(KIND, [size]) == pytest.approx((10.0,))


def test_an_answer_that_took_no_time():
    costs = RenderCosts()
    costs.learn(KIND, RenderSize(1, 0.0003), 0.0)
    assert costs.predict_ms(KIND, [RenderSize(20, 9.0)]) == (0.0,)
