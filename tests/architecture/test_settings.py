"""Every setting is documented, and is a flag and an environment variable by one name."""

import inspect

import pytest
from typer.testing import CliRunner

from service import cli
from service.settings import Settings

NAMES = list(Settings.model_fields)


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_documented(name):
    description = Settings.model_fields[name].description
    assert description
    assert description[0].isupper() or description[0] == "`"
    assert description.endswith(".")


def test_help_shows_every_setting():
    shown = CliRunner().invoke(cli.main, ["serve", "--help"], env={"COLUMNS": "200"}).output
    for name in NAMES:
        assert f"--{name.replace('_', '-')} " in shown


def test_flags_are_the_settings():
    assert list(inspect.signature(cli.serve).parameters) == NAMES


def test_flags_win_over_the_environment_over_defaults(monkeypatch):
    seen: list[Settings] = []
    monkeypatch.setattr(cli, "_run", seen.append)
    monkeypatch.setenv("PERCEPT_PORT", "9000")
    monkeypatch.setenv("PERCEPT_MAX_PIXELS", "1000000")
    result = CliRunner().invoke(cli.main, ["serve", "--port", "9100", "--model-repo", "/models"])
    assert result.exit_code == 0, result.output
    (settings,) = seen
    assert (settings.port, settings.max_pixels) == (9100, 1_000_000)
    assert str(settings.model_repo) == "/models"
    assert settings.host == "127.0.0.1"
