import os
import subprocess
import sys
from pathlib import Path

import pytest

from assay.cards import catalogue, recognise, repository
from assay.cards.card import Card, Statistics
from assay.errors import CheckpointError

ENSEMBLE = """
summary = "A panel."
[ensemble]
members = ["one", "other"]
[limits]
max_tokens = 64
[statistics]
mean = 0.0
std = 1.0
[statistics.members.one]
mean = 2.0
std = 3.0
"""


def checkpoint(folder, **files):
    """Make what passes for a checkpoint folder; keyword files add to it or replace its own."""
    folder.mkdir(parents=True)
    files = {"card.toml": "", "config.json": "{}", "model.safetensors": "weights", **files}
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Return an empty model repository; the current folder is its neighbour."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    root = tmp_path / "models"
    root.mkdir()
    return root


def refusal(reference, models):
    """Return the message with which a reference is refused."""
    with pytest.raises(CheckpointError) as error:
        repository.resolve(reference, models)
    return error.value.message


def test_a_name_is_a_folder_of_the_repository(models):
    """The name is served as given, from the repository's folder."""
    folder = checkpoint(models / "judge")
    source = repository.resolve("judge", models)
    assert source == repository.Source(
        "judge", Card(), (repository.Checkpoint("judge", folder, Card()),)
    )


def test_a_path_is_a_checkpoint_folder(models, tmp_path):
    """A model given by path is named after its folder."""
    folder = checkpoint(tmp_path / "elsewhere" / "critic")
    (one,) = repository.resolve(str(folder), models).checkpoints
    assert (one.name, one.folder) == ("critic", folder)


@pytest.mark.parametrize("reference", ["critic", "./critic", "../here/critic", "critic/"])
def test_a_relative_path_starts_in_the_current_folder(models, reference):
    """Paths may be written as one would type them."""
    folder = checkpoint(Path.cwd() / "critic")
    (one,) = repository.resolve(reference, models).checkpoints
    assert (one.name, one.folder) == ("critic", folder)


def test_the_current_folder_is_a_path(models, monkeypatch):
    """`.` is where one stands, not the model repository."""
    folder = checkpoint(Path.cwd() / "critic")
    monkeypatch.chdir(folder)
    (one,) = repository.resolve(".", models).checkpoints
    assert (one.name, one.folder) == ("critic", folder)


def test_the_repository_is_asked_before_the_current_folder(models):
    """A name of the repository isn't shadowed by a folder that happens to be here."""
    folder = checkpoint(models / "judge")
    checkpoint(Path.cwd() / "judge")
    assert repository.resolve("judge", models).checkpoints[0].folder == folder


def test_an_unknown_name_lists_the_known_ones(models):
    """The message says what the repository has."""
    checkpoint(models / "judge")
    message = refusal("jugde", models)
    assert message.startswith(f"'jugde' is neither a model of the repository {models} (it has: ")
    assert "judge" in message.split("(it has: ")[1].split(")")[0].split(", ")


def test_what_is_available_has_a_card_or_a_config(models):
    """Other folders and files of the repository aren't models."""
    checkpoint(models / "judge")
    (models / "notes").mkdir()
    (models / "README.md").write_text("", encoding="utf-8")
    (models / "panel").mkdir()
    (models / "panel" / "card.toml").write_text(ENSEMBLE, encoding="utf-8")
    assert {"judge", "panel", repository.STARTER} <= catalogue.folders(models).keys()


def test_the_starter_is_available_without_a_repository(tmp_path):
    """The embedded ensemble comes with Assay."""
    assert repository.STARTER in catalogue.folders(tmp_path / "nowhere")
    assert repository.resolve(repository.STARTER, tmp_path / "nowhere").is_ensemble


def test_a_folder_with_pickles_only_is_refused(models):
    """Pickles run code when read; the message names them and the way out."""
    folder = checkpoint(models / "judge", **{"pytorch_model.bin": "code"})
    (folder / "model.safetensors").unlink()
    assert refusal("judge", models).startswith(
        f"judge: {folder} holds only pickles (pytorch_model.bin), which can run code when read; "
        "convert them to safetensors"
    )


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "card.toml", "x.safetensors"])
@pytest.mark.parametrize("where", ["judge", "judge/one"])
def test_a_pipe_in_a_folder_is_refused_unread(models, name, where):
    """To read it would take for ever, and every later change would wait behind it."""
    judge = checkpoint(models / "judge")
    if where != "judge":
        (judge / "card.toml").write_text(ENSEMBLE)
        checkpoint(judge / "one")
        checkpoint(judge / "other")
    (models / where / name).unlink(missing_ok=True)
    os.mkfifo(models / where / name)

    for reference in ("judge", str(judge)):
        assert f"{name} is a pipe, a device or a socket" in refusal(reference, models)


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "card.toml", "model.safetensors", "vocab.txt", "code.py"],
)
def test_a_folder_that_is_called_as_a_file_is_refused(models, name):
    """Whoever reads it, the error would be another."""
    judge = checkpoint(models / "judge")
    (judge / name).unlink(missing_ok=True)
    (judge / name).mkdir()

    for reference in ("judge", str(judge)):
        assert f"{name} is a folder, where a file is expected" in refusal(reference, models)


def test_a_folder_beside_the_files_is_passed_over(models):
    """Some repositories keep a second tokenizer in a folder of that name."""
    judge = checkpoint(models / "judge")
    before = repository.revision(judge)
    (judge / "tokenizer").mkdir()
    (judge / "tokenizer" / "vocab.txt").write_text("")

    (one,) = repository.resolve("judge", models).checkpoints
    assert one.revision == before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model-2.safetensors", "x.txt"])
def test_a_link_that_leads_out_of_the_folder_is_refused(models, tmp_path, name):
    """What lies elsewhere isn't the checkpoint's, and may be a secret."""
    judge = checkpoint(models / "judge")
    outside = tmp_path / "outside"
    outside.write_text("{}")
    (judge / name).unlink(missing_ok=True)
    (judge / name).symlink_to(outside)

    assert f"{name} is a link that leads out of its folder, to {outside}" in refusal(
        "judge", models
    )


def test_links_within_the_folder_and_those_of_the_hubs_cache_are_followed(models, tmp_path):
    """A snapshot is made of links to the files of its own repository."""
    judge = checkpoint(models / "judge")
    (judge / "model-2.safetensors").symlink_to("model.safetensors")
    repository.resolve("judge", models)

    cache = tmp_path / "hub" / "models--org--judge"
    snapshot = checkpoint(cache / "snapshots" / ("0" * 40))
    (cache / "blobs").mkdir()
    (snapshot / "config.json").rename(cache / "blobs" / "abc")
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    repository.resolve(str(snapshot), models)

    other = checkpoint(tmp_path / "hub" / "models--org--other" / "blobs")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(other / "config.json")
    assert "leads out of its folder" in refusal(str(snapshot), models)


def test_a_member_that_is_a_link_to_another_folder_is_refused(models, tmp_path):
    """An ensemble's members lie in its folder."""
    judge = checkpoint(models / "judge")
    (judge / "card.toml").write_text(ENSEMBLE)
    checkpoint(judge / "one")
    (judge / "other").symlink_to(checkpoint(tmp_path / "elsewhere"))

    assert "leads out of its folder" in refusal("judge", models)


def test_a_pipe_below_a_folder_is_not_read_for_its_revision(models):
    """Code in folders below is of the revision; a pipe that is called so isn't code."""
    judge = checkpoint(models / "judge")
    before = repository.revision(judge)
    (judge / "below").mkdir()
    os.mkfifo(judge / "below" / "x.py")

    assert repository.revision(judge) == before


@pytest.mark.parametrize(
    "reference",
    [
        *("a" * 6_000, "/" + "a" * 6_000, "/tmp/" + "a/" * 3_000, "./" + "a" * 6_000),
        *("a\0", "/tmp/\0", "~\0", "x=/\0", "trl-prm=/" + "a" * 6_000, "a/../" * 1_500),
    ],
    ids=lambda one: f"{one[:8]!r} {len(one)}",
)
def test_a_path_that_no_file_can_have_is_refused_in_a_sentence(models, reference):
    """Which doesn't repeat all of it."""
    assert len(refusal(reference, models)) < 2_000


def test_a_configuration_that_no_model_has_is_refused_before_anything_reads_on(models):
    """Nothing may be built by it, a tokenizer's class neither."""
    checkpoint(models / "judge", **{"config.json": '{"num_hidden_layers": 20000000}'})
    assert "'num_hidden_layers' is 20000000" in refusal("judge", models)


def test_a_folder_without_weights_is_refused(models):
    """There is nothing to load."""
    folder = checkpoint(models / "judge")
    (folder / "model.safetensors").unlink()
    assert refusal("judge", models) == f"judge: {folder} has no *.safetensors file"


def test_a_folder_without_a_config_is_refused(models):
    """Weights alone don't say what they are of."""
    folder = checkpoint(models / "judge")
    (folder / "config.json").unlink()
    assert refusal("judge", models).startswith(f"judge: {folder} has no config.json; give ")


def test_a_snapshot_of_the_hub_is_called_as_its_repository(models, tmp_path):
    """A commit's hash tells nobody what is served."""
    folder = checkpoint(tmp_path / "models--org--judge" / "snapshots" / ("0123456789" * 4))
    (one,) = repository.resolve(str(folder), models).checkpoints
    assert (one.name, one.folder) == ("org/judge", folder)


def test_a_link_to_a_folder_is_called_as_the_link(models, tmp_path):
    """What it leads to is read as it is at the start, whatever becomes of the link."""
    folder = checkpoint(tmp_path / "checkpoint-100")
    (tmp_path / "judge").symlink_to(folder)
    (one,) = repository.resolve(str(tmp_path / "judge"), models).checkpoints
    assert (one.name, one.folder) == ("judge", folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_instead_of_its_folder_is_refused(models, tmp_path, name):
    """The message says which folder is wanted."""
    file = checkpoint(tmp_path / "critic") / name
    assert refusal(str(file), models) == (
        f"{file} is not a folder; give the folder that holds config.json and *.safetensors"
    )


@pytest.mark.parametrize("reference", ["/nowhere/at/all", "./nowhere", "~/nowhere-at-all", "a/b/c"])
def test_a_path_to_nothing_is_refused(models, reference):
    """What is neither name, folder nor hub id is said to be none of them."""
    assert refusal(reference, models).startswith(f"'{reference}' is neither a model of ")


def test_an_ensemble_is_its_members(models):
    """Each member is a checkpoint of its own, named below the ensemble."""
    panel = models / "panel"
    one, other = checkpoint(panel / "one"), checkpoint(panel / "other")
    (panel / "card.toml").write_text(ENSEMBLE, encoding="utf-8")
    source = repository.resolve("panel", models)
    assert (source.name, source.is_ensemble, source.card.summary) == ("panel", True, "A panel.")
    assert [(member.name, member.folder) for member in source.checkpoints] == [
        ("panel/one", one),
        ("panel/other", other),
    ]


def test_a_member_has_the_ensembles_limits_and_its_own_statistics(models):
    """Statistics of one member are never another's, nor the ensemble's."""
    panel = models / "panel"
    checkpoint(panel / "one")
    checkpoint(panel / "other")
    (panel / "card.toml").write_text(ENSEMBLE, encoding="utf-8")
    one, other = repository.resolve("panel", models).checkpoints
    assert [one.card.limits.max_tokens, other.card.limits.max_tokens] == [64, 64]
    assert one.card.statistics == Statistics(mean=2.0, std=3.0)
    assert other.card.statistics is None


def test_a_member_is_read_as_its_ensembles_card_says_or_its_own(models):
    """Tables that say how a score is computed hold for every member without a card of its own."""
    panel = models / "panel"
    checkpoint(panel / "one")
    own = "[score]\ntransform = 'negate'\n"
    checkpoint(panel / "other", **{"card.toml": own})
    (panel / "card.toml").write_text(ENSEMBLE + "[trunk]\nattention = 'padded'\n")

    one, other = repository.resolve("panel", models).checkpoints

    assert (one.card.trunk.attention, one.card.score.transform) == ("padded", "identity")
    assert (other.card.trunk.attention, other.card.score.transform) == (None, "negate")
    assert [one.card.limits.max_tokens, other.card.limits.max_tokens] == [64, 64]


def test_a_missing_member_is_named(models):
    """An ensemble is served whole or not at all."""
    panel = models / "panel"
    checkpoint(panel / "one")
    (panel / "card.toml").write_text(ENSEMBLE, encoding="utf-8")
    assert refusal("panel", models) == f"panel/other: {panel / 'other'} is not a folder"


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "vocab.txt",
    ],
)
def test_the_revision_changes_with_any_byte_that_decides_scores(tmp_path, name):
    """Config, weights, tokenizer and chat template all count."""
    folder = checkpoint(tmp_path / "judge", **{name: "before"})
    before = repository.revision(folder)
    (folder / name).write_text("befory", encoding="utf-8")
    assert repository.revision(folder) != before


def test_the_revision_is_twelve_hex_digits_of_the_content(tmp_path):
    """Equal files have equal revisions, wherever they lie; notes beside them don't count."""
    one = checkpoint(tmp_path / "one")
    other = checkpoint(tmp_path / "other", **{"README.md": "Read me.", "card.toml": ""})
    assert repository.revision(one) == repository.revision(other)
    assert int(repository.revision(one), 16) < 16**12
    assert len(repository.revision(one)) == 12


def test_content_that_moves_to_another_file_changes_the_revision(tmp_path):
    """Names count, not only bytes."""
    one = checkpoint(tmp_path / "one", **{"vocab.json": "x", "vocab.txt": "y"})
    other = checkpoint(tmp_path / "other", **{"vocab.json": "y", "vocab.txt": "x"})
    assert repository.revision(one) != repository.revision(other)


def test_the_template_key_is_equal_for_equal_tokenizers(tmp_path):
    """Members with other weights share their rendering; another tokenizer doesn't."""
    tokenizer = {"tokenizer.json": "{}"}
    one = checkpoint(tmp_path / "one", **tokenizer)
    other = checkpoint(tmp_path / "other", **tokenizer, **{"model.safetensors": "others"})
    third = checkpoint(tmp_path / "third", **{"tokenizer.json": "[]"})
    keys = [repository.template_key(folder) for folder in (one, other, third)]
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]


def test_an_ensembles_revision_depends_on_each_member_and_their_order():
    """Any member's change is the ensemble's."""
    revisions = [repository.combined_revision(one) for one in (["a", "b"], ["a", "c"], ["b", "a"])]
    assert len(set(revisions)) == 3
    assert [len(one) for one in revisions] == [12, 12, 12]


def test_a_hub_id_that_cannot_be_fetched_is_an_error_that_says_so(tmp_path):
    """Offline and not in the cache: the message names the id and what to check."""
    assert fetched(tmp_path, HF_HUB_OFFLINE="1") == (
        "'nobody/nothing@main' is not in the local hub cache and the hub can't be reached; check "
        "the network, or HF_HUB_OFFLINE, or give a local folder\n"
    )


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (":::", "can't be fetched from the hub (InvalidURL); give a local folder"),
        ("socks5://127.0.0.1:9", "Using SOCKS proxy, but the 'socksio' package is not installed"),
    ],
)
def test_a_proxy_that_can_not_be_used_is_said_to_be_in_the_way(tmp_path, value, says):
    """Not a traceback of the hub's client."""
    message = fetched(tmp_path, HTTPS_PROXY=value)
    assert says in message
    assert message.endswith("; or mend the proxy that HTTPS_PROXY may name\n")


def fetched(folder, **variables):
    """Return the message with which a hub id is refused.

    The hub's client reads its settings when it is imported, so it needs a process of its own.
    """
    program = (
        "from pathlib import Path\n"
        "from assay.cards.repository import resolve\n"
        "from assay.errors import CheckpointError\n"
        "try:\n"
        "    resolve('nobody/nothing@main', Path('nowhere'))\n"
        "except CheckpointError as error:\n"
        "    print(error.message)\n"
    )
    clean = {name: one for name, one in os.environ.items() if "PROXY" not in name.upper()}
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**clean, "HF_HOME": str(folder), **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_checkpoints_own_code_is_part_of_its_revision(models):
    """Whoever trusts a revision trusts the code that was read."""
    folder = checkpoint(models / "judge", **{"modeling.py": "def score(): ..."})
    before = repository.revision(folder)
    with (folder / "modeling.py").open("a", encoding="utf-8") as file:
        file.write("# more\n")
    assert repository.revision(folder) != before


# --- the catalogue ----------------------------------------------------------------------------

SOURCED = '[source]\nid = "org/judge"\nrevision = "abc"\n[limits]\nmax_tokens = 7\n'


@pytest.fixture
def catalogued(models, monkeypatch):
    """Return a repository with a card of a hub checkpoint, whose download is what was asked for."""
    (models / "judge").mkdir()
    (models / "judge" / "card.toml").write_text(SOURCED, encoding="utf-8")
    asked = []

    def fetch(reference):
        asked.append(reference)
        return checkpoint(models.parent / f"fetched-{len(asked)}")

    monkeypatch.setattr(repository, "_fetch", fetch)
    return models, asked


def test_a_card_without_weights_takes_those_of_its_source(catalogued):
    """At the revision that it was written for."""
    models, asked = catalogued
    (one,) = repository.resolve("judge", models).checkpoints
    assert (one.name, one.card.limits.max_tokens, asked) == ("judge", 7, ["org/judge@abc"])


def test_a_checkpoint_of_the_hub_takes_the_card_written_for_it(catalogued):
    """A fetched folder has no card.toml; the catalogue knows it by its id."""
    models, asked = catalogued
    (one,) = repository.resolve("org/judge@main", models).checkpoints
    assert (one.name, one.card.limits.max_tokens, asked) == ("org/judge", 7, ["org/judge@main"])


def test_a_card_goes_over_a_local_copy(catalogued, tmp_path):
    """`NAME=PATH` needs no network."""
    models, asked = catalogued
    folder = checkpoint(tmp_path / "copy")
    (one,) = repository.resolve(f"judge={folder}", models).checkpoints
    assert (one.name, one.folder, one.card.limits.max_tokens) == ("judge", folder, 7)
    assert not asked


def test_an_unknown_card_over_a_local_copy_is_refused(catalogued, tmp_path):
    """The message says where the known ones are listed."""
    models, _ = catalogued
    message = refusal(f"jugde={tmp_path}", models)
    assert message == (
        "the catalogue has no card 'jugde'; `assay models` lists what it has; to serve "
        f"'{tmp_path}' under that name, give --name jugde={tmp_path}"
    )


@pytest.mark.parametrize("reference", ["rm-lr=1e-5/checkpoint-100", "./judge=mine", "judge=mine"])
def test_a_path_may_have_an_equals_sign(catalogued, reference):
    """Trainers write their options into the names of folders."""
    models, _ = catalogued
    folder = checkpoint(Path.cwd() / reference)
    (one,) = repository.resolve(reference, models).checkpoints
    assert (one.name, one.folder) == (folder.name, folder)


def test_a_path_to_nothing_with_an_equals_sign_is_said_to_be_nothing(catalogued):
    """It is neither a card nor a folder."""
    models, _ = catalogued
    message = refusal("rm-lr=1e-5/checkpoint-100", models)
    assert message == (
        "the catalogue has no card 'rm-lr'; `assay models` lists what it has; nor is "
        "'rm-lr=1e-5/checkpoint-100' a folder"
    )


def test_what_may_be_a_card_or_a_path_is_refused(catalogued):
    """Both are there; the message says how to write each."""
    models, _ = catalogued
    checkpoint(Path.cwd() / "judge=mine")
    checkpoint(Path.cwd() / "mine")
    message = refusal("judge=mine", models)
    assert "write './judge=mine' for the first, or 'judge=./mine' for the second" in message


@pytest.mark.parametrize("reference", ["judge", "{folder}", "judge={folder}", "org/judge"])
def test_anything_is_served_under_a_name_that_is_given(catalogued, tmp_path, reference):
    """A name of the catalogue, a path, a card over a path, a hub id."""
    models, _ = catalogued
    wanted = reference.format(folder=checkpoint(tmp_path / "hf"))
    source = repository.resolve(wanted, models, name="mine")
    assert (source.name, [one.name for one in source.checkpoints]) == ("mine", ["mine"])


def test_an_ensembles_members_are_below_its_given_name(models):
    """So that two ensembles of one folder's name can be told apart."""
    panel = models / "panel"
    checkpoint(panel / "one")
    checkpoint(panel / "other")
    (panel / "card.toml").write_text(ENSEMBLE, encoding="utf-8")
    source = repository.resolve("panel", models, name="mine")
    assert [one.name for one in source.checkpoints] == ["mine/one", "mine/other"]


@pytest.mark.parametrize("reference", ["", "x" * 5000, "nul\0", "half\ud83d", "a\nb", "~nobody/x"])
def test_a_reference_that_nothing_is_called_is_refused_in_one_line(models, reference):
    """Whatever a caller sends, the message can be logged and sent."""
    message = refusal(reference, models)
    assert "is neither a model of" in message
    assert len(message.encode().splitlines()) == 1


def test_a_card_with_neither_weights_nor_a_source_says_how_to_give_them(models):
    """Such a card describes a recipe that everybody trains for himself."""
    (models / "recipe").mkdir()
    (models / "recipe" / "card.toml").write_text("family = 'mine'\n", encoding="utf-8")
    assert refusal("recipe", models).startswith(
        "'recipe' is a card without weights; give them: recipe=PATH"
    )


def test_a_checkpoint_in_doubt_is_refused_with_the_way_out(models, tmp_path, monkeypatch):
    """Which of two families wrote it, only its owner knows."""
    folder = checkpoint(tmp_path / "doubtful")
    (folder / "card.toml").unlink()
    doubt = recognise.Recognised("Judges", Card(), ("critics write the same files",))
    monkeypatch.setattr(repository, "recognise", lambda _: doubt)
    message = refusal(str(folder), models)
    assert message.startswith(f"{folder} looks like Judges, but: critics write the same files.")
    assert f"NAME={folder}" in message
    assert f"assay inspect {folder}" in message


def test_every_card_of_the_catalogue_is_right():
    """Each reads, and what it says of its heads is whole."""
    for folder in catalogue.folders(catalogue.embedded()).values():
        assert isinstance(catalogue.read(folder), Card)
