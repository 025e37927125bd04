import pytest

from service.core.tasks import APPEARANCE, MASK, TASKS


def test_rows_are_consistent():
    for name, task in TASKS.items():
        assert task.name == name
        assert task.default_output in task.outputs
        assert task.default_reduction in task.reductions
        assert task.images


def test_the_outputs_are_those_of_the_http_contract():
    assert {name: tuple(task.outputs) for name, task in TASKS.items()} == {
        "depth": ("color", "png16", "npz", "json"),
        "flow": ("color", "flo", "kitti", "npz", "json"),
        "amodal": ("mask", "overlay", "rgb", "npz", "json"),
        "normals": ("color", "png16", "npz", "json"),
    }


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        TASKS["depth"] = TASKS["flow"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("output", "available", "expected"),
    [
        ("mask", MASK + APPEARANCE, MASK),
        ("overlay", MASK + APPEARANCE, MASK),
        ("json", MASK + APPEARANCE, MASK),
        ("rgb", MASK + APPEARANCE, MASK + APPEARANCE),
        ("npz", MASK + APPEARANCE, MASK + APPEARANCE),
        ("mask", APPEARANCE, APPEARANCE),
        ("npz", APPEARANCE, APPEARANCE),
        ("npz", MASK, MASK),
        ("rgb", MASK, None),
        ("mask", ("red", "green"), None),
    ],
)
def test_an_amodal_output_takes_the_cheapest_fields_that_make_it(output, available, expected):
    assert TASKS["amodal"].fields_for(output, available) == expected


def test_flow_needs_both_components_for_everything():
    flow = TASKS["flow"]
    assert flow.fields == {"u", "v"}
    assert all(flow.fields_for(output, ("u",)) is None for output in flow.outputs)
    assert all(flow.fields_for(output, ("v", "u")) == ("u", "v") for output in flow.outputs)


def test_normals_need_every_axis_for_everything():
    normals = TASKS["normals"]
    assert normals.fields == {"x", "y", "z"}
    for output in normals.outputs:
        assert normals.fields_for(output, ("x", "y")) is None
        assert normals.fields_for(output, ("z", "y", "x")) == ("x", "y", "z")
