"""The generated pages of the documentation say what the code says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer.main

from assay import wire
from assay.cards.reference import filled
from assay.cli import app
from assay.client.adapters.reward import Options, Reward
from assay.errors import AssayError
from assay.reference import cli, http, settings
from assay.reference.__main__ import PAGES
from assay.settings import PREFIX, Settings, load
from tests.test_errors import leaves

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

DOCS = Path(__file__).parents[2] / "docs"


def models() -> Iterator[type[BaseModel]]:
    """Yield what requests and answers are made of."""
    for one in vars(wire).values():
        if inspect.isclass(one) and issubclass(one, wire.Request | wire.Answer):
            yield one


@pytest.mark.parametrize("name", PAGES)
def test_what_is_generated_is_up_to_date(name: str) -> None:
    """Each page's generated part is what its generator gives."""
    text = (DOCS / name).read_text(encoding="utf-8")
    command = "python -m assay.reference docs"

    assert filled(text, PAGES[name]()) == text, f"docs/{name} is old; run: {command}"


def test_every_field_of_requests_and_answers_is_described() -> None:
    """In `wire` itself, so in the OpenAPI document, too."""
    bare = [
        f"{model.__name__}.{name}"
        for model in models()
        for name, field in model.model_fields.items()
        if not field.description
    ]

    assert bare == []


def test_every_field_of_requests_and_answers_has_a_row() -> None:
    """Under the model that declares it."""
    shown = {*http.REQUESTS, *http.ANSWERS}
    bases = {wire.Request, wire.Answer}

    assert set(models()) - shown - bases == set()
    for model in shown:
        assert set(http.own_fields(model)) <= set(model.model_fields)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An empty folder, and no setting in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"{PREFIX}{name.upper()}", raising=False)
    return monkeypatch


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_settings_lines_are_right_and_mean_the_same(bare: pytest.MonkeyPatch, name: str) -> None:
    """What the page shows for the file and for the environment can be copied."""
    Path("assay.toml").write_text(settings.in_file(name), encoding="utf-8")
    of_file, origins = load()
    Path("assay.toml").unlink()
    bare.setenv(f"{PREFIX}{name.upper()}", settings.in_environment(name))
    of_environment, _ = load()

    assert origins[name] == "assay.toml"
    assert getattr(of_file, name) == getattr(of_environment, name)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_setting_whose_default_says_nothing_has_an_example(name: str) -> None:
    """Another value than the default, where that is none."""
    default = Settings.model_fields[name].default

    assert settings.example(name) not in (None, [], {}, "")
    if default in (None, (), {}):
        assert name in settings.EXAMPLES


def test_every_command_and_option_is_there() -> None:
    """As it is typed."""
    text = PAGES["cli.md"]()
    root = typer.main.get_command(app)

    for name, command in root.commands.items():
        assert f"### `assay {name}`" in text
        for typed, _ in cli.options(command):
            assert typed.replace("|", "\\|") in text


def test_every_error_has_a_row() -> None:
    """With its code, status and class."""
    text = PAGES["errors.md"]()

    for leaf in leaves(AssayError):
        assert re.search(rf"^\| `{leaf.code}` \|.* `{leaf.__name__}` \|", text, re.MULTILINE)


def test_every_option_of_the_adapters_has_a_row() -> None:
    """And type checkers know each of them."""
    text = PAGES["python.md"]()

    assert [name for name in Reward.model_fields if f"| `{name}` |" not in text] == []
    assert set(Options.__annotations__) == set(Reward.model_fields) - {"url"}
