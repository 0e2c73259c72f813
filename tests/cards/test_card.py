import re

import pytest

from assay.cards import card as cards
from assay.errors import CheckpointError


def written(folder, text):
    """Write a card into a folder."""
    (folder / cards.FILE_NAME).write_text(text, encoding="utf-8")
    return folder


def test_a_folder_without_a_card_has_an_empty_one(tmp_path):
    """A card is optional: what it doesn't state has defaults."""
    assert cards.read(tmp_path) == cards.Card()


def test_an_empty_card_states_nothing(tmp_path):
    """An empty file equals no file."""
    assert cards.read(written(tmp_path, "")) == cards.Card()


def test_a_card_is_read_whole(tmp_path):
    """Each table reaches its field."""
    card = cards.read(
        written(
            tmp_path,
            """
            summary = "A judge."
            languages = ["en", "de"]

            [ensemble]
            members = ["one", "other"]

            [limits]
            max_tokens = 512
            truncation = "response_end"

            [statistics]
            mean = 1.5
            std = 2.0
            members = { one = { mean = 1.0, std = 3.0 } }

            [[data]]
            name = "pairs"
            source = "somewhere"
            license = "MIT"
            pairs = 10

            [[evaluation]]
            name = "held-out"
            pairs = 100
            accuracy = 0.7
            interval = [0.6, 0.8]

            [[agreement]]
            agreement = 1.0
            pairs = 50
            accuracy = 0.8
            interval = [0.7, 0.9]

            [length]
            spearman = 0.1
            """,
        )
    )
    assert card == cards.Card(
        summary="A judge.",
        languages=["en", "de"],
        ensemble=cards.Ensemble(members=["one", "other"]),
        limits=cards.Limits(max_tokens=512, truncation="response_end"),
        statistics=cards.Statistics(
            mean=1.5, std=2.0, members={"one": cards.Moments(mean=1.0, std=3.0)}
        ),
        data=[cards.Data(name="pairs", source="somewhere", license="MIT", pairs=10)],
        evaluation=[
            cards.Evaluation(name="held-out", pairs=100, accuracy=0.7, interval=(0.6, 0.8))
        ],
        agreement=[cards.Agreement(agreement=1.0, pairs=50, accuracy=0.8, interval=(0.7, 0.9))],
        length=cards.Length(spearman=0.1),
    )


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("sumary = 'A judge.'", "sumary: unknown field; did you mean 'summary'?"),
        ("[templat]\nchat = 'x'", "templat: unknown field; did you mean 'template'?"),
        ("[heads.reward]\nlayer = []", "heads.reward.layer: unknown field; did you mean 'layers'?"),
        ("wizard = 1", "wizard: unknown field"),
        ("[limits]\nmax_token = 5", "limits.max_token"),
        ("[limits]\nmax_tokens = 0", "limits.max_tokens"),
        ("[limits]\ntruncation = 'middle'", "limits.truncation"),
        ("[ensemble]\nmembers = ['alone']", "ensemble.members"),
        ("[statistics]\nmean = 0.0\nstd = 0.0", "statistics.std"),
        ("[statistics]\nmean = 0.0", "statistics.std"),
        ("[[evaluation]]\nname = 'x'\npairs = 1\naccuracy = 0.5", "evaluation.0.interval"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(tmp_path, text, where):
    """What a card states must be right: file and field are named."""
    folder = written(tmp_path, text)
    with pytest.raises(CheckpointError, match=re.escape(f"{folder / 'card.toml'}: {where}")):
        cards.read(folder)


HEADS = "[heads.reward]\nlayers = [{ op = 'linear', weight = 'w' }]\n"
SPREAD = "[heads.spread]\nlayers = [{ op = 'linear', weight = 'w' }]\n"
OF_A_SPREAD = "[spread]\nkind = '{}'\n"
PAIR = "[template.pair]\ntext = '{a}{b}'\n[preference]\nform = 'pair'\n"
BILINEAR = "[preference]\nform = 'bilinear'\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[trunk]\narchitecture = 'LlamaModel'", "'architecture' goes with"),
        ("[trunk]\nlayout = 'internlm2'\nprefix = 'x.'", "'prefix' goes with"),
        ("[template]\ngeneration_prompt = true\nturns = {user='', assistant=''}", "has its 'end'"),
        ("[steps]\nprompt = 'Q: {prompt}'", "'prompt' goes with form = 'separate'"),
        ("[steps]\nreply = '-'", "'reply' goes with form = 'turns'"),
        ("[steps]\nform = 'separate'", "at = 'steps' goes with"),
        ("[read]\nat = 'steps'", "at = 'steps' goes with"),
        ("[read]\noffset = 1", "'offset' goes with at = 'pattern'"),
        ("[read]\nwhich = 'all'", "'which' goes with at = 'pattern'"),
        (
            "[read]\nat = 'pattern'\npattern = ['a', 'b']\nwhich = 'each'\noffset = 1",
            "which = 'each' reads all",
        ),
        ("[spread]\nkind = 'laplace'", "goes with a head named 'spread'"),
        (HEADS + SPREAD, "goes with a head named 'spread'"),
        (HEADS + SPREAD + OF_A_SPREAD.format("bins") + "[steps]\n", "one score for one response"),
        (
            HEADS + SPREAD + OF_A_SPREAD.format("bins") + "[score]\ntransform = 'sigmoid'",
            "not of a probability",
        ),
        (
            HEADS
            + SPREAD
            + OF_A_SPREAD.format("laplace")
            + "[score]\nrule = 'weighted'\noutputs = ['a']\nweights = {a = 1.0}",
            "'laplace' goes with [score] rule = 'index'",
        ),
        ("[score]\nbias = 1.0", "'bias' goes with"),
        ("[score]\nrule = 'gated'\nindex = 1", "'index' goes with"),
        (HEADS + "[heads.other]\nlayers = [{ op = 'normalize' }]", "'other' is read by nothing"),
        (HEADS + "[heads.gate]\nlayers = [{ op = 'normalize' }]", "'gate' goes with"),
        (HEADS + "read = { at = 'mean' }", "of all heads alike"),
        (BILINEAR + "swap = false", "'swap' goes with form = 'pair'"),
        (BILINEAR + "[score]\ntransform = 'negate'", "leave [score] out"),
        (PAIR + "temperature = 2.0", "goes with logit = true"),
        ("[policy]\n[score]\nindex = 1", "leave [score] out"),
        ("[policy]\n[read]\nat = 'first'", "leave [read] out"),
        (
            "[steps]\nform = 'separate'\n[read]\nat = 'steps'\n[template]\nappend = ['x']",
            "'append' isn't of steps",
        ),
    ],
)
def test_a_field_that_nothing_would_read_is_refused(tmp_path, text, says):
    """A card promises what is done: what does nothing in it is named."""
    with pytest.raises(CheckpointError, match=re.escape(says)):
        cards.read(written(tmp_path, text))


def test_a_card_that_is_not_toml_is_refused(tmp_path):
    """The file is named."""
    with pytest.raises(CheckpointError, match=r"card\.toml is not valid TOML"):
        cards.read(written(tmp_path, "summary ="))


def test_a_card_that_is_not_text_is_refused(tmp_path):
    """Bytes that aren't UTF-8 are no card."""
    (tmp_path / cards.FILE_NAME).write_bytes(b"summary = '\xff'")
    with pytest.raises(CheckpointError, match=r"card\.toml is not valid TOML"):
        cards.read(tmp_path)


def test_a_card_is_frozen():
    """What a model is doesn't change while it is served."""
    with pytest.raises(ValueError, match="frozen"):
        cards.Card().summary = "Another."


@pytest.mark.parametrize(
    "name", ["../other", "/etc/hostname", "..", "", "a/b", "a\\\\b", "a\\u0000b", "x" * 6_000]
)
@pytest.mark.parametrize(
    ("field", "card"),
    [
        ("ensemble.members.1", '[ensemble]\nmembers = ["one", "{}"]'),
        ("policy.reference", '[policy]\nreference = "{}"'),
        (
            "heads.reward.file",
            '[heads.reward]\nlayers = [{{op = "linear", weight = "w"}}]\nfile = "{}"',
        ),
    ],
    ids=["members", "reference", "file"],
)
def test_what_a_card_names_lies_beside_it(tmp_path, field, card, name):
    """Never elsewhere on the machine."""
    with pytest.raises(CheckpointError) as refused:
        cards.read(written(tmp_path, card.format(name)))
    assert f"{field}: the name of what lies beside the card" in refused.value.message


def test_a_card_that_is_nested_deep_or_long_is_refused_in_a_sentence(tmp_path):
    """Neither is our defect, nor worth the time that it takes to be read."""
    with pytest.raises(CheckpointError, match="is nested too deep"):
        cards.read(written(tmp_path, "a = " + "[" * 30_000 + "]" * 30_000))
    with pytest.raises(CheckpointError, match="which no card needs"):
        cards.read(written(tmp_path, "[" + "a." * 100_000 + "a]"))
