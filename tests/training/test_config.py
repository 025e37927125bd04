"""Named runs, and overriding their settings."""

import json

import pytest

from service.core.record import ArtifactError
from training import finetune
from training.config import (
    ConfigError,
    described,
    override,
    read_model,
)
from training.data.mixture import SOURCES
from training.data.shares import PROCEDURAL, SourceShare
from training.finetune import from_here, task_step, turns
from training.loop import learning_rate
from training.models.perception import MODELS
from training.runs.autoencoder import AUTOENCODER_RUNS
from training.runs.finetune import FINETUNE_RUNS


@pytest.mark.parametrize("name", FINETUNE_RUNS)
def test_every_run_describes_itself_and_trains_every_task(name: str):
    run = FINETUNE_RUNS[name]()
    plain = json.loads(json.dumps(described(run)))
    assert read_model(plain["model"]) == run.model
    assert override(run, []) == run
    assert set(run.shares) == set(run.rows) == set(run.model.tasks)
    pool = run.pool.chunk * run.pool.chunks
    for task, rows in run.rows.items():
        rendered = any(source.name == PROCEDURAL for source in run.sources[task])
        assert rows <= pool or not rendered


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
        ("loop.learning_rate=NaN", "loop.learning_rate: 'NaN' is not JSON"),
        ("loop=3", "loop: must be dict, got int"),
        ("shares.flow=null", "shares.flow: must be int"),
        ('model.form="other"', "model.form: must be one of"),
        ("model.scene_widths=[8, 16, true]", r"model.scene_widths\[2\]: must be int"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, message: str):
    with pytest.raises(ConfigError, match=message):
        override(FINETUNE_RUNS["tiny"](), [setting])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            'sources.depth=[{"name": "moon", "share": 1}]',
            r"sources.depth\[0\].name: must be one of",
        ),
        ('sources.flow=[{"name": "hypersim", "share": 1}]', r"sources.flow\[0\].name: must be one"),
        ('sources.flow=[{"name": "procedural", "share": 0}]', r"sources.flow\[0\].share: must be"),
        ("sources.amodal=[]", "sources.amodal: must name a source"),
        ("shares.flow=0", "shares.flow: must be at least 1"),
        ("rows.flow=0", "rows.flow: must be at least 1"),
        ('model.tasks=["depth"]', "shares.flow: must be one of depth"),
        ('model.targets="paper"', "model.targets: must be percept"),
        ("loader.workers=0", "loader.workers: must be at least 1"),
        ("loop.steps=0", "loop.steps: must be at least 1"),
        ("loop.learning_rate=-1", "loop.learning_rate: must not be negative"),
        ("loop.warmup_steps=-3", "loop.warmup_steps: must not be negative"),
        ("loop.seed=-1", "loop.seed: must not be negative"),
        ("loop.ema_decay=2", r"loop.ema_decay: must be in \[0, 1\)"),
        ("rows.depth=1000", "rows.depth: must be at most the pool's 8"),
        ("pool.chunk=0", "pool.chunk: must be at least 1"),
        ("loss.draws=0", "loss.draws: must be at least 1"),
        ("model.image_size=100", "model.image_size: must be a multiple of 16 px"),
        ("model.flow_size=100", "model.flow_size: must be a multiple of 8 px"),
        ("model.scene_widths=[8, 16, 18]", "model.scene_widths: must be multiples of 8"),
        ("model.denoiser_heads=3", "model.denoiser_width: must be a multiple of 4.* 3 heads"),
        ("model.denoiser_depth=0", "model.denoiser_depth: must be at least 1"),
        ("model.condition_channels=3", "model.condition_channels: must be at least 8, got 3"),
        ("model.patch=0", "model.patch: must be at least 1"),
        ("augment.crop_area=2", "augment.crop_area: must be above 0"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_named(setting: str, message: str):
    with pytest.raises(ConfigError, match=message):
        override(FINETUNE_RUNS["tiny"](), [setting])


def test_sources_can_be_chosen():
    told = [{"name": "hypersim", "share": 9}, {"name": PROCEDURAL, "share": 1}]
    run = override(FINETUNE_RUNS["tiny"](), [f"sources.depth={json.dumps(told)}"])
    assert run.sources["depth"] == (SourceShare("hypersim", 9.0), SourceShare(PROCEDURAL, 1.0))
    assert run.data == ("hypersim", PROCEDURAL)


@pytest.mark.parametrize("name", [name for name in FINETUNE_RUNS if name[-1].isdigit()])
def test_the_papers_runs_see_the_same_number_of_pictures(name: str):
    run = FINETUNE_RUNS[name]()
    assert run.loop.micro_batches * run.rows[run.model.tasks[0]] == 32
    assert run.loop.learning_rate == 1.2e-4
    last = learning_rate(run.loop, run.loop.steps)
    assert last == pytest.approx(1.2e-6)
    assert run.model.form == "concatenated"
    assert run.model.targets == "paper"
    assert run.model.image_size == (512 if name.endswith("-512") else 256)


def test_the_papers_generalist_learns_every_task_in_every_step():
    for name in ("generalist-XL", "generalist-XL-8E2A"):
        run = FINETUNE_RUNS[name]()
        order = turns(run)
        seen = [task_step(order, micro)[0] for micro in range(run.loop.micro_batches)]
        rows = {task: seen.count(task) * run.rows[task] for task in run.shares}
        assert rows == {"depth": 32, "flow": 32, "amodal": 32}
        assert run.data == ("hypersim", "flying_chairs", "pix2gestalt")
    assert run.model.experts is not None


def test_a_description_of_an_earlier_version_gets_the_defaults_of_new_settings():
    before = FINETUNE_RUNS["tiny"]().model
    plain = json.loads(json.dumps(described(FINETUNE_RUNS["tiny"]())["model"]))
    for name in ("tasks", "targets", "schedule", "experts", "first_axis", "pretrained_labels"):
        del plain[name]
    del plain["vae"]["kind"]
    assert read_model(plain) == before
    with pytest.raises(ArtifactError, match=r"vae\.colour: is not a known field"):
        read_model({**plain, "vae": {**plain["vae"], "colour": 1}})


def test_a_process_knows_its_next_micro_batches():
    run = override(FINETUNE_RUNS["tiny"](), ["loop.micro_batches=4", "loop.steps=3"])
    assert list(from_here(run, 0, 1)) == list(range(12))
    assert list(from_here(run, 9, 1)) == [9, 10, 11]
    assert list(from_here(run, 1, 2)) == [1, 3, 5, 7, 9, 11]
    assert list(from_here(run, 6, 4)) == [6, 10]


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
