"""Names and versions to models."""

import dataclasses

import pytest

from service.api.catalog import Catalog
from service.core.tasks import TASKS
from service.errors import InvalidField, Unavailable
from tests.support.tiny_repository import tiny_artifact

A1, A2, B1 = (tiny_artifact(name, v, {}) for name, v in (("a", 1), ("a", 2), ("b", 1)))
C1 = tiny_artifact("c", 1, {})
DEPTH_ONLY = dataclasses.replace(C1, tasks=C1.tasks[:1])


def catalog_of(*artifacts, chosen=None):
    catalog = Catalog(chosen)
    catalog.show(artifacts)
    return catalog


def test_names_mean_the_newest_version():
    catalog = catalog_of(B1, A1, A2)
    depth = TASKS["depth"]
    assert catalog.resolve("a", depth)[0] is A2
    assert catalog.resolve("a:1", depth)[0] is A1
    assert catalog.resolve("b", depth)[0] is B1
    assert list(catalog.artifacts) == ["a:2", "a:1", "b:1"]


def test_the_default_is_the_first_or_the_chosen_one():
    assert catalog_of(B1, A1, A2).default is A2
    assert catalog_of(B1, A1, A2, chosen="b").default is B1
    assert catalog_of(B1, A1, chosen="a:1").resolve(None, TASKS["flow"])[0] is A1


def test_unknown_models():
    with pytest.raises(InvalidField) as caught:
        catalog_of(A1).resolve("z", TASKS["flow"])
    assert (caught.value.field, caught.value.limit) == ("model", "a:1")


def test_models_come_and_go():
    catalog = Catalog("a")
    assert catalog.default is None
    for name in (None, "a"):
        with pytest.raises(Unavailable) as caught:
            catalog.resolve(name, TASKS["flow"])
        assert caught.value.retry_after_s == 1
    catalog.show([A1])
    assert catalog.resolve(None, TASKS["flow"])[0] is A1
    catalog.show([A1, A2])
    assert catalog.resolve(None, TASKS["flow"])[0] is A2
    catalog.show([B1])
    with pytest.raises(Unavailable):  # the chosen one is away; another would answer otherwise
        catalog.resolve(None, TASKS["flow"])
    assert catalog.resolve("b", TASKS["flow"])[0] is B1


def test_models_that_do_a_task_are_listed_the_default_first():
    flow = TASKS["flow"]
    assert catalog_of(B1, A1, A2, chosen="b").able(flow) == (B1, A2, A1)
    assert catalog_of(B1, DEPTH_ONLY, chosen="c").able(flow) == (B1,)
    assert catalog_of(DEPTH_ONLY).able(flow) == ()


def test_a_model_without_the_task_names_those_with_it():
    catalog = catalog_of(DEPTH_ONLY, A1)
    with pytest.raises(InvalidField) as caught:
        catalog.resolve("c", TASKS["flow"])
    assert caught.value.limit == "a:1"
    assert catalog.resolve("c", TASKS["depth"])[0].key == "c:1"
