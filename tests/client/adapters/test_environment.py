"""Options from the environment, which the server doesn't take for its own."""

import pytest

from assay import errors, settings
from assay.client.adapters import environment
from assay.client.adapters.reward import Reward

SET = {
    "URL": "http://a:1,http://b:2",
    "API_KEY": "key",
    "MODEL": "7",
    "NORMALIZE": "true",
    "ATTRIBUTES": '{"wit": 0.5}',
    "UNCERTAINTY_PENALTY": "0.5",
    "CLIP": "[-5, 5]",
    "UNSCORABLE": "-1",
    "RETRIES": "3",
    "NAME": "",
}


def set_all(monkeypatch, **variables):
    """Set variables by their options' names."""
    for name, value in variables.items():
        monkeypatch.setenv(environment.PREFIX + name, value)


def test_every_kind_of_option_can_be_set(monkeypatch):
    """Numbers, lists and tables as JSON; an empty variable is none."""
    set_all(monkeypatch, **SET)
    assert environment.reward(unscorable=0.0, verbatim=True) == Reward(
        url=("http://a:1", "http://b:2"),
        api_key="key",
        model="7",
        normalize=True,
        attributes={"wit": 0.5},
        uncertainty_penalty=0.5,
        clip=(-5.0, 5.0),
        unscorable=-1.0,
        retries=3,
        verbatim=True,
    )


def test_what_is_given_wins(monkeypatch):
    """Over the environment, and that over defaults."""
    set_all(monkeypatch, URL="http://a:1", MODEL="one")
    made = environment.reward({"url": "http://b:2"}, model="default", unscorable=0.0)
    assert (made.url, made.model, made.unscorable) == (("http://b:2",), "one", 0.0)


def test_no_address_is_said():
    """With the variable to set."""
    with pytest.raises(errors.InvalidField, match="ASSAY_CLIENT_URL"):
        environment.reward()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MODLE", "a", "did you mean ASSAY_CLIENT_MODEL"),
        ("CLIP", "-5,5", "ASSAY_CLIENT_CLIP is not JSON"),
        ("RETRIES", "many", "retries"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch, name, value, message):
    """A misspelt one, too."""
    set_all(monkeypatch, URL="http://a:1", **{name: value})
    with pytest.raises(errors.InvalidField, match=message):
        environment.reward()


def test_a_server_of_the_same_shell_starts(monkeypatch, tmp_path):
    """Its settings are the other ASSAY_ variables."""
    monkeypatch.chdir(tmp_path)
    set_all(monkeypatch, **SET)
    loaded, _ = settings.load()
    assert loaded.api_key == ()
