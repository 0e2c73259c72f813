import os
from pathlib import Path

import pytest

from assay.errors import SettingsError
from assay.settings import PREFIX, Settings, load, rereader


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """Start from no settings at all: an empty folder and no ASSAY_ variables."""
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(variable)


def write(text, name="assay.toml"):
    """Write a settings file in the current folder."""
    Path(name).write_text(text, encoding="utf-8")
    return Path(name)


def test_without_anything_the_defaults_hold():
    """Nothing given: the documented defaults, and that is where they come from."""
    settings, origins = load()
    assert settings == Settings()
    assert set(origins.values()) == {"default"}


def test_every_setting_has_an_origin():
    """`assay config` can say of each setting where it came from."""
    assert list(load()[1]) == list(Settings.model_fields)


def test_every_setting_says_what_it_is():
    """Each setting has a one-line description."""
    assert [name for name, one in Settings.model_fields.items() if not one.description] == []


def test_the_file_beats_the_default():
    """`assay.toml` in the current folder is read without being asked for."""
    write("port = 9000")
    settings, origins = load()
    assert (settings.port, origins["port"]) == (9000, "assay.toml")


def test_the_environment_beats_the_file(monkeypatch):
    """ASSAY_PORT wins over the file's port."""
    write("port = 9000")
    monkeypatch.setenv("ASSAY_PORT", "9001")
    settings, origins = load()
    assert (settings.port, origins["port"]) == (9001, "environment")


def test_a_flag_beats_the_environment(monkeypatch):
    """What is typed wins over everything."""
    write("port = 9000")
    monkeypatch.setenv("ASSAY_PORT", "9001")
    settings, origins = load({"port": 9002})
    assert (settings.port, origins["port"]) == (9002, "flag")


def test_a_flag_that_is_not_given_wins_over_nothing():
    """None stands for a flag that wasn't typed."""
    write("port = 9000")
    settings, origins = load({"port": None, "host": None})
    assert (settings.port, origins["port"], origins["host"]) == (9000, "assay.toml", "default")


def test_each_setting_keeps_its_own_origin(monkeypatch):
    """Sources are merged setting by setting."""
    write('host = "0.0.0.0"\nport = 9000')
    monkeypatch.setenv("ASSAY_DTYPE", "bfloat16")
    settings, origins = load({"port": 9002})
    assert (settings.host, settings.dtype, settings.port) == ("0.0.0.0", "bfloat16", 9002)
    assert [origins[name] for name in ("host", "dtype", "port", "device")] == [
        "assay.toml",
        "environment",
        "flag",
        "default",
    ]


def test_another_file_is_read_where_it_is_named():
    """`--config FILE` replaces assay.toml."""
    write("port = 9000")
    other = write("threads = 3", "other.toml")
    settings, origins = load(config=other)
    assert (settings.port, settings.threads, origins["threads"]) == (8000, 3, "other.toml")


def test_the_environment_can_name_the_file(monkeypatch):
    """ASSAY_CONFIG is the file's name, not a setting."""
    write("threads = 3", "other.toml")
    monkeypatch.setenv("ASSAY_CONFIG", "other.toml")
    assert load()[0].threads == 3


def test_a_named_file_that_is_missing_is_an_error(tmp_path):
    """Only the default file may be absent."""
    with pytest.raises(SettingsError, match=r"nowhere\.toml doesn't exist"):
        load(config=tmp_path / "nowhere.toml")


def test_a_file_that_can_not_be_read_is_an_error():
    """It is there, so it isn't the same as none."""
    Path("assay.toml").mkdir()
    with pytest.raises(SettingsError, match=r"assay\.toml can't be read: Is a directory"):
        load()


def test_a_file_that_was_there_must_be_there_when_it_is_read_again():
    """A settings file that got lost isn't a wish for the defaults."""
    file = write("port = 9000")
    reread = rereader({})
    file.unlink()
    with pytest.raises(SettingsError, match=r"assay\.toml doesn't exist"):
        reread()
    write("port = 9001")
    assert reread().port == 9001


def test_a_file_that_came_later_must_be_there_from_then_on():
    """Without one at the start there may be none; flags win as they did."""
    reread = rereader({"threads": 2})
    assert reread().port == 8000
    file = write("port = 9000\nthreads = 3")
    assert (reread().port, reread().threads) == (9000, 2)
    file.unlink()
    with pytest.raises(SettingsError, match=r"assay\.toml doesn't exist"):
        reread()


def test_an_unknown_key_of_the_file_names_the_nearest():
    """A misspelt key is an error that says what was likely meant, and where."""
    write("prot = 9000")
    with pytest.raises(SettingsError) as error:
        load()
    assert error.value.message == "unknown setting 'prot' in assay.toml; did you mean 'port'?"


def test_an_unknown_variable_names_the_nearest(monkeypatch):
    """A misspelt ASSAY_ variable is an error, too."""
    monkeypatch.setenv("ASSAY_MAX_TOKEN", "5")
    with pytest.raises(SettingsError) as error:
        load()
    assert error.value.message == (
        "unknown setting 'max_token' in the environment; did you mean 'max_tokens'?"
    )


def test_variables_of_others_are_left_alone(monkeypatch):
    """Only ASSAY_ variables are settings."""
    monkeypatch.setenv("PORT", "1")
    assert load()[0].port == 8000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 65_536),
        ("port", -1),
        ("threads", 0),
        ("batch_tokens", 15),
        ("max_body_bytes", 1023),
        ("max_body_bytes", 512 * 1024**2 + 1),
        ("max_held_bytes", 1024**2 - 1),
        ("write_timeout_s", 0),
        ("allowed_hosts", "http://judge"),
        ("allowed_hosts", "judge:8000"),
        ("drain_timeout_s", -0.1),
        ("dtype", "float8"),
        ("quantize", "int4"),
        ("log_level", "loud"),
        ("models", ""),
    ],
)
def test_a_value_out_of_range_is_refused(name, value):
    """The message names the setting and where the value came from."""
    with pytest.raises(SettingsError, match=rf"^setting '{name}.*' \(from flag\): "):
        load({name: value})


def test_a_bad_value_is_traced_to_its_source(monkeypatch):
    """Whoever set it is named."""
    monkeypatch.setenv("ASSAY_PORT", "many")
    with pytest.raises(SettingsError, match=r"^setting 'port' \(from environment\): "):
        load()


def test_a_file_that_is_not_toml_is_an_error():
    """The file is named."""
    write("port = ")
    with pytest.raises(SettingsError, match=r"^assay\.toml is not valid TOML: "):
        load()


def test_a_file_that_is_not_text_is_an_error(tmp_path):
    """Bytes that aren't UTF-8 are no settings."""
    (tmp_path / "assay.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"^assay\.toml is not valid TOML: "):
        load()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"threads = {'1' * 5_000}", "is not valid TOML"),
        (f"threads = {'[' * 5_000}{']' * 5_000}", "is not valid TOML: it is nested too deep"),
        (f"# {'x' * 2**20}", "can't be read: it has over 1048576 bytes"),
    ],
    ids=["long", "deep", "large"],
)
def test_a_file_that_no_reader_takes_is_an_error(text, says):
    """Of ours, in a sentence."""
    write(text)
    with pytest.raises(SettingsError, match=says):
        load()


def test_a_pipe_in_place_of_a_file_is_an_error(tmp_path):
    """It isn't waited for; /dev/null is a file without settings."""
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(SettingsError, match="can't be read: it isn't a regular file"):
        load(config=tmp_path / "pipe.toml")
    load(config=Path(os.devnull))


def test_lists_are_separated_by_commas_in_the_environment(monkeypatch):
    """Spaces around the parts and empty parts don't count."""
    monkeypatch.setenv("ASSAY_MODELS", "starter, judge ,,/data/critic")
    monkeypatch.setenv("ASSAY_DEVICE", "cuda:0,cuda:1")
    settings, _ = load()
    assert settings.models == ("starter", "judge", "/data/critic")
    assert settings.device == ("cuda:0", "cuda:1")


def test_lists_are_lists_in_the_file():
    """TOML has lists of its own; a comma-separated string is taken, too."""
    write('models = ["starter", "judge"]\ndevice = "cpu"')
    settings, _ = load()
    assert (settings.models, settings.device) == (("starter", "judge"), ("cpu",))


def test_ensembles_are_tables_in_the_file():
    """An ensemble is a name and its members."""
    write('[ensembles]\npanel = ["one", "other"]')
    assert load()[0].ensembles == {"panel": ("one", "other")}


def test_ensembles_are_json_in_the_environment(monkeypatch):
    """A table doesn't fit between commas."""
    monkeypatch.setenv("ASSAY_ENSEMBLES", '{"panel": ["one", "other"]}')
    assert load()[0].ensembles == {"panel": ("one", "other")}


def test_ensembles_that_are_not_json_are_refused(monkeypatch):
    """What can't be read is an error of ours, with the variable's name."""
    monkeypatch.setenv("ASSAY_ENSEMBLES", "one+other")
    with pytest.raises(SettingsError, match="ensembles"):
        load()


def test_keys_are_split_and_never_shown(monkeypatch):
    """Several keys by commas; neither the settings nor their repr reveal one."""
    monkeypatch.setenv("ASSAY_API_KEY", "first-key,second-key")
    settings, _ = load()
    assert [key.get_secret_value() for key in settings.api_key] == ["first-key", "second-key"]
    shown = f"{settings!r} {settings} {settings.api_key} {settings.model_dump_json()}"
    assert "first-key" not in shown
    assert "second-key" not in shown


@pytest.mark.parametrize("name", ["ASSAY_API_KEY", "ASSAY_ADMIN_KEY"])
@pytest.mark.parametrize("value", ["", " ", ","])
def test_a_key_that_is_given_but_empty_is_refused(monkeypatch, name, value):
    """A secret that wasn't filled in doesn't leave the door open."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="given, but empty"):
        load()


def test_no_key_of_several_is_empty():
    """A request without one would have it."""
    write('api_key = ["first-key", ""]')
    with pytest.raises(SettingsError, match="given, but empty"):
        load()


def test_an_error_beside_a_key_does_not_show_it(monkeypatch):
    """A message about one setting says nothing of a secret one."""
    monkeypatch.setenv("ASSAY_API_KEY", "first-key")
    with pytest.raises(SettingsError) as error:
        load({"port": -1})
    assert "first-key" not in f"{error.value} {error.value.__cause__}"


def test_settings_are_frozen():
    """Nothing changes a setting after the start."""
    with pytest.raises(ValueError, match="frozen"):
        load()[0].port = 1


def test_a_list_of_the_environment_may_be_json(monkeypatch):
    """A path may have a comma, and begin with a bracket."""
    monkeypatch.setenv("ASSAY_MODELS", '["/data/a,b", "starter"]')
    assert load()[0].models == ("/data/a,b", "starter")
    monkeypatch.setenv("ASSAY_MODELS", "[judge],starter")
    assert load()[0].models == ("[judge]", "starter")


def test_a_path_with_a_comma_that_is_there_is_one_path(monkeypatch, tmp_path):
    """Unless each of its parts is there, too; then only a JSON list says which is meant."""
    both = str(tmp_path / "a,b")
    Path(both).mkdir()
    monkeypatch.setenv("ASSAY_MODELS", both)
    assert load()[0].models == (both,)
    (tmp_path / "a").mkdir()
    Path("b").mkdir()
    with pytest.raises(SettingsError, match=r"write a JSON list, such as \["):
        load()


def test_what_has_a_name_of_its_own_is_served_in_the_place_of_the_default():
    """In the order of the names; beside models that are given, and once."""
    write('[names]\na = "/x/hf"\nb = "/y/hf"')
    assert load()[0].models == ("/x/hf", "/y/hf")
    assert load({"models": ["starter", "/y/hf/"]})[0].models == ("starter", "/y/hf", "/x/hf")


@pytest.mark.parametrize("name", ["", "two\nlines", " blank", "x" * 257])
def test_a_name_that_is_no_line_of_text_is_refused(name):
    """It stands in logs, headers and metrics."""
    with pytest.raises(SettingsError, match=r"^setting 'names\."):
        load({"names": {name: "/x/hf"}})


def test_one_path_has_one_name():
    """Another is an alias: what is loaded twice costs its memory twice."""
    with pytest.raises(SettingsError, match="'/x/hf' has two names"):
        load({"names": {"a": "/x/hf", "b": "/x/hf/"}})


def test_a_folder_may_be_below_the_home(monkeypatch):
    """A file has no shell to expand `~`."""
    monkeypatch.setenv("HOME", "/home/somebody")
    write('repository = "~/models"')
    assert load()[0].repository == Path("/home/somebody/models")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ASSAY_SERVICE_HOST", "10.0.0.7"),
        ("ASSAY_SERVICE_PORT", "8000"),
        ("ASSAY_SERVICE_PORT_HTTP", "8000"),
        ("ASSAY_PORT", "tcp://10.0.0.7:8000"),
        ("ASSAY_PORT_8000_TCP", "tcp://10.0.0.7:8000"),
        ("ASSAY_PORT_8000_TCP_ADDR", "10.0.0.7"),
        ("ASSAY_JUDGE_SERVICE_HOST", "10.0.0.7"),
        ("ASSAY_JUDGE_PORT", "tcp://10.0.0.7:8000"),
    ],
)
def test_kubernetes_service_links_are_called_what_they_are(monkeypatch, variable, value):
    """They aren't unknown settings, and the message says how to be rid of them."""
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError) as error:
        load()

    assert error.value.message.startswith(f"{variable} is Kubernetes' word for where a Service")
    assert "enableServiceLinks: false" in error.value.message
