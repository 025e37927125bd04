"""Named runs, and overriding their settings."""

import json

import pytest

from training import finetune
from training.config import (
    ConfigError,
    described,
    override,
    read_model,
)
from training.data.mixture import SOURCES
from training.finetune import task_step, turns
from training.models.perception import MODELS
from training.runs.autoencoder import AUTOENCODER_RUNS
from training.runs.finetune import FINETUNE_RUNS
from training.targets import COMPONENTS


@pytest.mark.parametrize("name", FINETUNE_RUNS)
def test_every_run_describes_itself_and_trains_every_task(name: str):
    run = FINETUNE_RUNS[name]()
    plain = json.loads(json.dumps(described(run)))
    assert read_model(plain["model"]) == run.model
    assert override(run, []) == run
    assert run.shares.keys() == run.rows.keys() == COMPONENTS.keys()
    pool = run.pool.chunk * run.pool.chunks
    assert all(rows <= pool for rows in run.rows.values())


@pytest.mark.parametrize("name", AUTOENCODER_RUNS)
def test_an_autoencoder_fits_the_generalists_around_it(name: str):
    run = AUTOENCODER_RUNS[name]()
    assert override(run, []) == run
    assert run.rows <= run.pool.chunk * run.pool.chunks
    forms = {"small": ("decoupled", "concatenated"), "tiny": ("tiny", "tiny-concatenated")}[name]
    assert all(MODELS[form].vae == run.model.vae for form in forms)


def test_settings_are_replaced_at_any_depth():
    settings = [
        "loop.steps=200",
        "loop.learning_rate=1",
        "model.vae.latent_channels=8",
        "model.scene_widths=[8, 16, 24]",
        "shares.flow=5",
        "pool.compiled=true",
        'model.form="concatenated"',
    ]
    before = FINETUNE_RUNS["tiny"]()
    run = override(before, settings)
    assert run.loop.steps == 200
    assert run.loop.learning_rate == 1.0
    assert run.model.vae.latent_channels == 8
    assert run.model.scene_widths == (8, 16, 24)
    assert run.shares == {**before.shares, "flow": 5}
    assert run.pool.compiled
    assert run.model.form == "concatenated"
    assert run.loss == before.loss
    assert before == FINETUNE_RUNS["tiny"]()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loop.steps", "loop.steps: expected name=value"),
        ("loop.stepz=3", "loop.stepz: 'stepz' is not one of .*steps"),
        ("lop.steps=3", "lop.steps: 'lop' is not one of .*loop"),
        ("shares.normals=3", "shares.normals: 'normals' is not one of amodal, depth, flow"),
        ("loop.steps.more=3", "loop.steps.more: 'more' is not a setting"),
        ("loop.steps={", "loop.steps: '{' is not JSON"),
        ('loop.steps="many"', "loop.steps: must be int, got str"),
        ("loop.steps=true", "loop.steps: must be int, got bool"),
        ("loop.steps=2.5", "loop.steps: must be int, got float"),
        ("loop.learning_rate=NaN", "NaN"),
        ("loop=3", "loop: must be dict, got int"),
        ("shares.flow=null", "shares.flow: must be int"),
        ('model.form="other"', "model.form: must be one of"),
        ("model.scene_widths=[8, 16, true]", r"model.scene_widths\[2\]: must be int"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, message: str):
    with pytest.raises(ConfigError, match=message):
        override(FINETUNE_RUNS["tiny"](), [setting])


def test_the_command_line_says_what_is_wrong(capsys: pytest.CaptureFixture[str]):
    arguments = ["--run", "tiny", "--vae", "v", "--out", "o", "--set", "loop.stepz=1"]
    with pytest.raises(SystemExit, match="2"):
        finetune.main(arguments)
    assert "'stepz' is not one of" in capsys.readouterr().err


def test_tasks_take_turns_and_count_their_own_steps():
    order = turns(FINETUNE_RUNS["shipped"]())
    assert order == ("depth", "flow", "amodal", "depth", "flow", "depth")
    own = [task_step(order, step) for step in range(60)]
    for task in SOURCES:
        assert [n for name, n in own if name == task] == list(range(10 * order.count(task)))
