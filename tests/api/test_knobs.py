"""Which fields a form may hold together, and what each may say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.knobs import Knobs, parse_knobs
from service.core.tasks import TASKS
from service.errors import InvalidField

DEPTH = TASKS["depth"]
BUDGET_LIMIT = "one of budget_evals, budget_ms, quality"

NO_NUMBERS = [
    "nan",
    "inf",
    "-inf",
    "1e309",
    "-1",
    "0",
    "",
    " ",
    "five",
    "0x10",
    "\u0663",
    "\uff15",
    "9" * 999,
]


@pytest.mark.parametrize(
    ("texts", "field", "limit"),
    [
        ({"budget_evals": "9", "budget_ms": "5"}, "budget_ms", BUDGET_LIMIT),
        ({"quality": "best", "budget_ms": "5"}, "quality", BUDGET_LIMIT),
        ({"budget_evals": "9", "steps": "2"}, "steps", "not with budget_evals, or ensemble=auto"),
        ({"budget_ms": "9", "ensemble": "2"}, "ensemble", "not with budget_ms, or ensemble=auto"),
        ({"quality": "draft", "steps": "2"}, "steps", "not with quality"),
        ({"quality": "draft", "ensemble": "2"}, "ensemble", "not with quality"),
        ({"quality": "draft", "ensemble": "auto"}, "ensemble", "not with quality"),
        (
            {"quality": "draft", "budget_evals": "9", "ensemble": "auto"},
            "quality",
            BUDGET_LIMIT,
        ),
        ({"tolerance": "0.1"}, "tolerance", "ensemble=auto"),
        ({"tolerance": "0.1", "ensemble": "5"}, "tolerance", "ensemble=auto"),
        ({"tolerance": "0.1", "budget_evals": "5"}, "tolerance", "ensemble=auto"),
    ],
)
def test_contradictions(texts, field, limit):
    with pytest.raises(InvalidField) as caught:
        parse_knobs(texts, DEPTH)
    assert (caught.value.field, caught.value.limit) == (field, limit)


@pytest.mark.parametrize(
    "texts",
    [
        {"ensemble": "auto"},
        {"ensemble": "auto", "steps": "200"},
        {"ensemble": "auto", "budget_evals": "8000"},
        {"ensemble": "auto", "budget_ms": "600000", "steps": "1"},
        {"ensemble": "auto", "tolerance": "0.001"},
        {"ensemble": "auto", "tolerance": "1", "budget_evals": "1"},
        {"budget_ms": "0.5"},
        {"budget_ms": "1e2"},
        {"quality": "standard", "seed": "1"},
        {"steps": "1", "ensemble": "20"},
    ],
)
def test_what_goes_together(texts):
    parse_knobs(texts, DEPTH)


@pytest.mark.parametrize(
    ("field", "limit", "values"),
    [
        ("budget_evals", "1..8000", [*NO_NUMBERS, "8001", "1.5", "1e3"]),
        ("budget_ms", "above 0, at most 600000", [*NO_NUMBERS, "600001", "1e-999", "-0"]),
        ("tolerance", "0.001..1", [*NO_NUMBERS, "0.0009", "1.01"]),
        ("ensemble", "1..20 or auto", [*NO_NUMBERS, "21", "AUTO", "Auto", "auto ", "automatic"]),
        ("quality", "draft, standard, best", ["", "BEST", "good", "0.5", "best,draft"]),
    ],
)
def test_wrong_values(field, limit, values):
    for value in values:
        with pytest.raises(InvalidField) as caught:
            parse_knobs({field: value}, DEPTH)
        assert (caught.value.field, caught.value.limit) == (field, limit), value
        assert "nan" not in str(caught.value.limit)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(Knobs.model_fields)), st.text(max_size=12)))
def test_any_texts_are_knobs_or_a_named_field(texts):
    try:
        knobs = parse_knobs(texts, DEPTH)
    except InvalidField as error:
        field, limit = error.field, error.limit
    else:
        field, limit = (*knobs.budgets, "seed")[0], "none"
        assert len(knobs.budgets) <= 1
    assert field in Knobs.model_fields
    assert limit
