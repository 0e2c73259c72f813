"""Ensembles of every kind: who their members are, on which scale, by which rule."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import torch

from assay import wire
from assay.errors import CheckpointError, InvalidField, SettingsError
from assay.scoring import interpretation, validation
from assay.scoring.interpretation import ScoreOptions
from assay.settings import Settings
from tests import resolving
from tests.families import attributes, layout, process, tokenizers
from tests.families.serving import Served
from tests.http import checkpoints

NAMES = ("ann", "bob", "cy", "dee", "eve")
OF_OUTPUTS = f"[ensemble]\nof = 'outputs'\n{{}}\n[score]\noutputs = {json.dumps(NAMES)}\n"
CLOSE = {"abs": 1e-5, "rel": 1e-5}
MEMBERS = 3
INNER = 16
PROCESS_CARD = """
[trunk]
architecture = "Qwen2Model"
unused = ["score.reg_model.*"]

[template]
system = 'Please reason step by step, and put your final answer within \\boxed{}.'

[steps]
step = "{step}<extra_0>"

[read]
at = "pattern"
pattern = ["<extra_0>"]
which = "all"

[heads.reward]
layers = [
  { op = "linear_each", weight = "score.model.nn1.weight", bias = "score.model.nn1.bias" },
  { op = "relu" },
  { op = "linear_each", weight = "score.model.nn2.weight", bias = "score.model.nn2.bias" },
  { op = "relu" },
  { op = "linear_each", weight = "score.model.nn_out.weight", bias = "score.model.nn_out.bias" },
]

[ensemble]
of = "outputs"

[score]
outputs = ["1", "2", "3"]
transform = "sigmoid"
"""


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    """A checkpoint with five labels, each a labeler's."""
    folder = tmp_path_factory.mktemp("panel") / "panel"
    folder.mkdir()
    attributes.labelled("llama", tokenizers.llama3, len(NAMES))(folder)
    (folder / "card.toml").write_text(OF_OUTPUTS.format(""))
    return folder


@pytest.fixture(scope="module")
def served(panel):
    """That checkpoint, served."""
    return Served(panel)


def carded(folder, to, text):
    """Copy a checkpoint with another card."""
    shutil.copytree(folder, to)
    (to / "card.toml").write_text(text)
    return to


def loaded(*folders, **settings):
    """Return what is served."""
    return resolving.load(Settings(models=tuple(map(str, folders)), **settings))


def labels_of(folder, item):
    """Return the five numbers, straight from the files."""
    weights, _ = layout.read(folder)
    ids = layout.encode(folder, attributes.llama3_text(item))
    return (weights["score.weight"] @ layout.hidden(folder, ids)[-1]).numpy().astype(float)


# --- outputs of one head ----------------------------------------------------------------------


def test_the_outputs_of_one_head_are_members_by_their_names(panel, served):
    """Each number is a member's score, the reward their mean, all of one forward pass."""
    target = served.target

    assert (target.kind, target.member_labels, target.attributes) == ("ensemble", NAMES, [])
    for item, verdict in zip(
        layout.ITEMS, served.verdicts(layout.ITEMS, together=False), strict=True
    ):
        expected = labels_of(panel, item)
        assert verdict.members == pytest.approx(expected, **CLOSE)
        assert verdict.rewards == verdict.members
        assert verdict.reward == pytest.approx(expected.mean(), **CLOSE)


@pytest.mark.parametrize(
    ("rule", "penalty", "by"),
    [
        ("min", None, lambda scores: scores.min()),
        ("lower_bound", None, lambda scores: scores.mean() - scores.std()),
        ("variance_penalty", 0.25, lambda scores: scores.mean() - 0.25 * scores.var()),
    ],
)
def test_a_rule_decides_the_reward_whoever_names_it(panel, served, tmp_path, rule, penalty, by):
    """The card by default, a request over it; members stay as they are."""
    said = f"rule = '{rule}'" + ("" if penalty is None else f"\npenalty = {penalty}")
    target = loaded(carded(panel, tmp_path / "panel", OF_OUTPUTS.format(said))).default
    (raw,) = served.scored([_source(layout.ITEMS[0])])
    scores = labels_of(panel, layout.ITEMS[0])

    by_card = interpretation.interpret(target, raw.numbers, served.sizes, ScoreOptions())
    by_request = interpretation.interpret(
        served.target, raw.numbers, served.sizes, ScoreOptions(rule=rule, penalty=penalty)
    )
    plain = interpretation.interpret(target, raw.numbers, served.sizes, ScoreOptions(rule="mean"))

    assert by_card.reward == by_request.reward == pytest.approx(by(scores), **CLOSE)
    assert plain.reward == pytest.approx(scores.mean(), **CLOSE)
    assert by_card.members == by_request.members == plain.members
    assert target.revision != served.target.revision


def test_outputs_on_scales_of_their_own_are_standardized_by_what_is_stored(panel, served, tmp_path):
    """By [statistics.members]; the composite of such a target has its reward as a part."""
    moments = {name: (0.1 * place, 1.0 + place) for place, name in enumerate(NAMES)}
    rows = (f"{name} = {{ mean = {m}, std = {s} }}" for name, (m, s) in moments.items())
    card = OF_OUTPUTS.format("standardize = true\nrule = 'min'") + (
        "[statistics]\nmean = 0.0\nstd = 2.0\n[statistics.members]\n" + "\n".join(rows)
    )
    found = loaded(
        carded(panel, tmp_path / "panel", card),
        composites={"half": {"parts": {"all": {"target": "panel", "weight": 0.5}}}},
    )
    target, half = found.by_name["panel"], found.by_name["half"]
    (raw,) = served.scored([_source(layout.ITEMS[1])])
    means, stds = np.array(list(moments.values())).T
    expected = (labels_of(panel, layout.ITEMS[1]) - means) / stds

    verdict = interpretation.interpret(target, raw.numbers, served.sizes, ScoreOptions())
    normal = interpretation.interpret(
        target, raw.numbers, served.sizes, ScoreOptions(normalize=True)
    )
    part = interpretation.interpret(half, raw.numbers, served.sizes, ScoreOptions())

    assert verdict.members == pytest.approx(expected, **CLOSE)
    assert verdict.reward == pytest.approx(expected.min(), **CLOSE)
    assert normal.reward == pytest.approx(expected.min() / 2, **CLOSE)
    assert part.reward == pytest.approx(expected.min() / 2, **CLOSE)
    assert target.warnings == ()


def test_a_leading_dimension_of_heads_is_members_of_each_step(tmp_path):
    """ActPRM's layers: MLPs side by side on one trunk. A step has their mean probability."""
    made_tokenizer = tokenizers.qwen(tmp_path)
    made = process.sharp(layout.model("qwen2", made_tokenizer))
    size = made.config.hidden_size
    widths = {"nn1": (size, INNER), "nn2": (INNER, INNER), "nn_out": (INNER, 1)}
    heads = {}
    for seed, (name, (before, after)) in enumerate(widths.items()):
        weight = layout.random(MEMBERS, before, after, seed=seed, scale=3 * before**-0.5)
        heads[f"score.model.{name}.weight"] = weight
        heads[f"score.model.{name}.bias"] = layout.random(MEMBERS, after, seed=9 + seed)
        heads[f"score.reg_model.{name}.weight"] = torch.zeros_like(weight)
    layout.save(tmp_path, layout.tensors(made, "model.") | heads, made)
    (tmp_path / "card.toml").write_text(PROCESS_CARD)

    served = Served(tmp_path)
    verdicts = served.verdicts(process.ITEMS)

    assert served.target.scores_steps
    for item, verdict in zip(process.ITEMS, verdicts, strict=True):
        members = _probabilities(tmp_path, item, widths, heads)
        assert verdict.steps == pytest.approx(members.mean(0), abs=1e-5)
        assert verdict.steps_std == pytest.approx(members.std(0), abs=1e-5)
        assert verdict.members == pytest.approx(members.min(1), abs=1e-5)
        wrong = np.flatnonzero(members.mean(0) < 0.5)
        assert verdict.first_error == (wrong[0] if len(wrong) else None)


def _probabilities(folder, item, widths, heads):
    """Return (members, steps): what each MLP makes of the token behind each step."""
    text = (
        f"<|im_start|>system\n{process.BOXED}<|im_end|>\n"
        f"<|im_start|>user\n{item['prompt']}<|im_end|>\n"
        f"<|im_start|>assistant\n{'<extra_0>'.join(item['steps'])}<extra_0><|im_end|>\n"
    )
    ids = layout.encode(folder, text)
    mark = layout.tokenizer(folder).convert_tokens_to_ids("<extra_0>")
    state = layout.hidden(folder, ids)[[place for place, one in enumerate(ids) if one == mark]]
    rows = []
    for member in range(MEMBERS):
        inner = state
        for name in widths:
            weight = heads[f"score.model.{name}.weight"][member]
            inner = inner @ weight + heads[f"score.model.{name}.bias"][member]
            inner = torch.relu(inner) if name != "nn_out" else inner
        rows.append(torch.sigmoid(inner[:, 0]).numpy())
    return np.stack(rows).astype(float)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[ensemble]\nof = 'outputs'\n", "at least 2 different names in [score] outputs"),
        (OF_OUTPUTS.format("") + "index = 1\n", "score: each output is a member by itself"),
        (OF_OUTPUTS.format("members = ['a', 'b']"), "ensemble.members: they go with of"),
        (OF_OUTPUTS.format("penalty = 1.0"), "'penalty' goes with rule"),
        (OF_OUTPUTS.format("standardize = true"), "no mean and std of 'ann' is stored"),
    ],
)
def test_what_does_not_go_with_outputs_is_refused(panel, tmp_path, text, words):
    """A sentence that names the field, or the member."""
    with pytest.raises((CheckpointError, SettingsError)) as error:
        loaded(carded(panel, tmp_path / "panel", text))

    assert words in error.value.message


# --- the setting ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two checkpoints on scales that differ."""
    root = tmp_path_factory.mktemp("pair")
    one = checkpoints.build(root / "one")
    (one / "card.toml").write_text("[statistics]\nmean = 1.0\nstd = 2.0\n")
    return one, carded(one, root / "other", "[statistics]\nmean = 0.5\nstd = 0.5\n")


def combined(pair, **table):
    """Return the ensemble of the two by a table of `[ensembles]`."""
    table = {"members": ("one", "other"), **table}
    return loaded(*pair, ensembles={"both": table}).by_name["both"]


def test_an_entry_may_name_members_standardize_and_combine_them(pair):
    """Names are the operator's, the scale each member's own; a list is as it always was."""
    numbers = [np.array([[3.0]]), np.array([[0.0]])]
    sizes = [{"reward": 1}] * 2

    target = combined(pair, members={"experts": "one", "crowd": "other"}, standardize=True)
    careful = combined(pair, standardize=True, rule="lower_bound", penalty=2.0)
    verdict = interpretation.interpret(target, numbers, sizes, ScoreOptions())
    cautious = interpretation.interpret(careful, numbers, sizes, ScoreOptions())

    assert target.member_labels == ("experts", "crowd")
    assert verdict.members == (1.0, -1.0)
    assert (verdict.reward, cautious.reward) == (0.0, -2.0)
    assert (target.warnings, careful.warnings) == ((), ())


@pytest.mark.parametrize("settings", [{}, {"aliases": {"again": "one"}}])
def test_a_member_is_named_once(pair, settings):
    """By another name of its own neither."""
    twice = ("one", "again" if settings else "one")
    with pytest.raises(SettingsError, match="ensemble 'both' names 'one' twice"):
        loaded(*pair, ensembles={"both": twice}, **settings)


@pytest.mark.parametrize(
    "table",
    [
        {"parts": {"a": {"target": "one", "weight": float("nan")}}},
        {
            "parts": {"a": {"target": "one"}},
            "gate": {"part": "a", "at_least": 0, "otherwise": "inf"},
        },
    ],
)
def test_what_a_composite_is_made_with_is_finite(table):
    """Else its rewards would be no numbers."""
    with pytest.raises(ValueError, match="finite number"):
        Settings(composites={"mix": table})


def test_a_rule_that_is_over_no_target_is_refused_beside_targets(pair):
    """Where an ensemble is among them, it is over that one alone."""
    both = combined(pair)
    single = loaded(*pair).by_name["one"]
    request = wire.ScoreRequest(inputs=[], targets=["one", "both"], rule="min")

    with pytest.raises(InvalidField, match="leave 'rule' out"):
        validation.check_each([single], request)
    validation.check_each([single, both], request)
    assert validation.for_target(single, request).rule is None
    assert validation.for_target(both, request).rule == "min"


def test_what_an_entry_says_is_of_its_revision_and_a_list_is_as_before(pair):
    """Rule, penalty and scale change the score; names in answers don't."""
    listed = loaded(*pair, ensembles={"both": ("one", "other")}).by_name["both"]
    tables = [{}, {"rule": "min"}, {"rule": "lower_bound"}, {"standardize": True}]
    tables.append({"rule": "lower_bound", "penalty": 2.0})

    revisions = [combined(pair, **table).revision for table in tables]

    assert revisions[0] == listed.revision
    assert len(set(revisions)) == len(tables)
    named = combined(pair, members={"a": "one", "b": "other"})
    assert named.revision == listed.revision


def test_members_on_scales_that_differ_are_warned_of_at_the_start(pair, tmp_path, caplog):
    """Or whose scale isn't known; alike ones aren't, nor standardized ones."""
    alike = carded(pair[0], tmp_path / "alike", "[statistics]\nmean = 0.2\nstd = 1.5\n")
    apart = carded(pair[0], tmp_path / "apart", "[statistics]\nmean = 9.0\nstd = 2.0\n")
    bare = carded(pair[0], tmp_path / "bare", "")
    names = {"alike": alike, "apart": apart, "bare": bare, "other": pair[1]}
    ensembles = {f"with-{name}": ("one", name) for name in names}
    with caplog.at_level(logging.WARNING, logger="assay.start"):
        found = loaded(pair[0], *names.values(), ensembles=ensembles)

    said = {name: found.by_name[f"with-{name}"].warnings for name in names}
    assert said["alike"] == ()
    assert "'one' has a std of 2 and 'other' of 0.5" in said["other"][0]
    assert "their means are 1 to 9" in said["apart"][0]
    assert "the scale of 'bare' isn't known" in said["bare"][0]
    assert caplog.messages == [
        f"with-{name}: {warning}" for name, warnings in said.items() for warning in warnings
    ]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"members": ()}, "ensembles.both.members"),
        ({"rule": "vote"}, "ensembles.both.rule"),
        ({"rule": "min", "penalty": 1.0}, "'penalty' goes with rule"),
        ({"weights": [1, 2]}, "ensembles.both.weights"),
    ],
)
def test_an_entry_that_is_wrong_is_named_by_its_path(table, words, tmp_path):
    """As in assay.toml, without names of our own."""
    from assay.settings import load

    file = tmp_path / "assay.toml"
    rows = {"members": ["one", "other"], **table}
    body = "\n".join(f"{key} = {json.dumps(value)}" for key, value in rows.items())
    file.write_text(f"[ensembles.both]\n{body}\n")
    with pytest.raises(SettingsError) as error:
        load({}, file)

    assert words in error.value.message


# --- what a request may ask -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"rule": "vote"}, "rule"),
        ({"rule": "min", "penalty": 1.0}, "penalty"),
        ({"penalty": 1.0}, "penalty"),
    ],
)
def test_a_rule_that_says_nothing_is_refused(served, options, param):
    """A vote is among responses; a penalty goes with a rule that has one."""
    request = wire.ScoreRequest(prompt="p", response="r", **options)
    with pytest.raises(InvalidField) as error:
        validation.check(served.target, request)

    assert error.value.param == param


def _source(item):
    from assay.scoring import items

    return items.source(wire.Item(**item))
