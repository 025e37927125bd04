"""The tables of the studies at both scales: what they name exists, fits and can be counted."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from training.models.counting import count
from training.models.dit import DiT, DiTConfig
from training.scaling.__main__ import main
from training.scaling.lineage import depth_label, pretrain_run
from training.scaling.networks import SCHEDULES, lineage
from training.scaling.plan import gpu_hours, networks_of, new_macs
from training.scaling.scale import Scale
from training.scaling.scales import PAPER, SCALES, TINY
from training.scaling.studies import STUDIES

EVERY_SCALE = pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)


@EVERY_SCALE
def test_different_networks_have_different_folders(scale: Scale):
    points = [point for study in STUDIES.values() for point in study.points(scale)]
    networks = {network for point in points for network in lineage(point.network)}
    assert len({network.key for network in networks}) == len(networks)
    assert len({point.key for point in points}) == len({(p.network, p.budget) for p in points})


@EVERY_SCALE
def test_every_point_can_be_sampled(scale: Scale):
    for study in STUDIES.values():
        for point in study.points(scale):
            network, budget = point.network, point.budget
            assert network.task == "depth"
            assert network.size in {scale.size, *scale.sizes}
            spec = SCHEDULES[network.schedule]
            assert len(spec.step_pairs(budget.steps)) == budget.steps
            assert network.model.in_channels == 2 * network.model.out_channels
            assert depth_label(network.model) == network.model.first_task_label


@EVERY_SCALE
def test_every_pre_training_is_a_run_of_that_command(scale: Scale):
    found = [n for n in networks_of(tuple(STUDIES), scale) if n.task == "classes"]
    assert {network.steps for network in found} >= set(scale.pretraining_steps)
    for network in found:
        run = pretrain_run(network)
        assert run.rows * run.loop.micro_batches == network.rows
        assert run.loop.decay == "constant"  # or its middle would not be a shorter run's end


@EVERY_SCALE
def test_the_ladder_grows_at_equal_samples(scale: Scale):
    points = STUDIES["model-size"].points(scale)
    networks = dict.fromkeys(p.network for p in points if p.network.seed == 1)
    costs = [network.own_macs for network in networks]
    assert costs == sorted(set(costs))
    assert len(costs) >= 5
    assert len({point.network.samples for point in points}) == 1
    assert len({model.heads for model in scale.ladder.values()}) == 1


def test_costs_add_up_along_the_line_of_parents():
    steps = TINY.pretraining_steps
    network = TINY.finetuned("t2", pretraining=steps[2])
    spent = network.macs_by_task
    forward = TINY.pretrained("t2", steps[0]).forward_macs
    assert spent["classes"] == 3 * forward * steps[2] * TINY.pretraining.rows
    assert spent["depth"] == network.own_macs == 3 * network.forward_macs * network.samples
    further = TINY.trained_further("t2", None)
    assert further.parent is not None
    assert further.macs_by_task["depth"] == further.own_macs + further.parent.own_macs
    chain = lineage(TINY.pretrained("t2", steps[-1]))
    assert sum(new_macs(n) for n in chain) == chain[-1].own_macs


def test_a_network_without_its_parent_is_refused():
    with pytest.raises(ValueError, match="parent None"):
        replace(TINY.finetuned("t1"), beginning="further")


def test_the_papers_networks_can_be_built_and_have_the_counted_parameters():
    @cache
    def parameters(config: DiTConfig) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in DiT(config).parameters())

    networks = networks_of(("model-size", "pretraining-steps", "noise-schedule"), PAPER)
    upcycled = [n for n in networks_of(("upcycling",), PAPER) if n.name == "a2-8E2A"]
    assert len(upcycled) == 1
    for network in (*networks, *upcycled):
        expected = count(network.model, network.size).learned_parameters
        assert parameters(network.model) == expected == network.parameters


def test_the_papers_ladder_costs_what_is_published():
    a4 = PAPER.finetuned("a4")
    assert a4.parameters / 1e6 == pytest.approx(458, abs=1)
    assert PAPER.pretrained("a1", 60_000).parameters / 1e6 == pytest.approx(14.8, abs=0.2)
    assert a4.parent is not None
    assert a4.parent.loop.steps == PAPER.pretrained_ladder


@EVERY_SCALE
def test_the_plan_prints_every_network(scale: Scale, capsys: pytest.CaptureFixture[str]):
    main(["all", "--plan", "--scale", scale.name])
    text = capsys.readouterr().out
    networks = networks_of(tuple(STUDIES), scale)
    assert f"{len(networks)} networks" in text
    assert all(name in text for name in (*STUDIES, *scale.ladder))


def test_hours_follow_from_peak_and_its_share():
    assert gpu_hours(int(1.8e18), peak=1000.0, mfu=0.5) == pytest.approx(2.0)
