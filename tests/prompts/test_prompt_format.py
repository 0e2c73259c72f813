"""Each form of item as a card spells it, and each form that a model doesn't take."""

import pytest

from assay.cards.mechanism import Pair, Steps, Template, Turns
from assay.errors import InvalidField, TemplateRefused
from assay.items import Contest, Conversation, Ids, Solution, Text
from assay.prompts.prompt_format import FormattedItem, Parts, spell, write

ASKED = ({"role": "user", "content": "2 + 2?"},)
SYSTEM = {"role": "system", "content": "Be brief."}
ANSWER = {"role": "assistant", "content": "4.\n\nYes."}
TURNS = Turns(user="U:{content} ", assistant="A:{content}|", begin="<", end=">")
PAIR = Template(pair=Pair(text="{prompt}/{a}/{b}"))
JOINED = Steps(step="Step {number}: {step}*", between="\n", split="\n\n")
SEPARATE = Steps(form="separate", prompt="Q: {prompt}\n", step="{step}", between="\n")
IN_TURNS = Steps(form="turns", between=" ", reply="+")
NOTHING = Template()


def contents(spelt):
    """Return the turns of what was spelt, by role and content."""
    return [(turn["role"], turn["content"]) for turn in spelt.item.messages]


# --- conversations ----------------------------------------------------------------------------


def test_a_conversation_is_spelt_as_it_is():
    """A card that says nothing changes nothing."""
    talk = Conversation((*ASKED, ANSWER))

    assert spell(talk, NOTHING, None) == FormattedItem(talk)


@pytest.mark.parametrize("source", [Text("x"), Ids((1, 2))])
@pytest.mark.parametrize("steps", [None, JOINED])
def test_text_and_ids_are_spelt_as_they_are(source, steps):
    """Any number of markers may stand in them."""
    assert spell(source, NOTHING, steps) == FormattedItem(source)


@pytest.mark.parametrize(
    ("policy", "sent", "expected"),
    [
        ("allow", (), []),
        ("allow", (SYSTEM,), ["Be brief."]),
        ("none", (), []),
        ("Think.", (), ["Think."]),
        ("Think.", (SYSTEM,), ["Be brief."]),
    ],
)
def test_a_system_turn_is_put_in_front_where_none_is_sent(policy, sent, expected):
    """One that is sent stays."""
    spelt = spell(Conversation((*sent, *ASKED, ANSWER)), Template(system=policy), None)

    assert [content for role, content in contents(spelt) if role == "system"] == expected


def test_a_system_turn_is_refused_where_the_model_knows_none():
    """It was trained without."""
    with pytest.raises(TemplateRefused, match="trained without system turns"):
        spell(Conversation((SYSTEM, *ASKED, ANSWER)), Template(system="none"), None)


def test_turns_are_written_as_fixed_strings():
    """A turn that holds "{content}" stays as it is."""
    said = ({"role": "user", "content": "{content}"}, {"role": "assistant", "content": "4"})

    assert write(said, TURNS) == "<U:{content} A:4|>"


def test_a_role_without_a_string_is_refused():
    """Turns that a card can't spell aren't left out."""
    with pytest.raises(TemplateRefused, match="no turn for the role 'system'"):
        write((SYSTEM, *ASKED), TURNS)


# --- steps ------------------------------------------------------------------------------------


def test_joined_steps_are_one_response():
    """Each is spelt, numbered from 1; so many markers there must be."""
    spelt = spell(Solution(ASKED, ("4.", "{number} {step}")), NOTHING, JOINED)

    expected = ("assistant", "Step 1: 4.*\nStep 2: {number} {step}*")
    assert contents(spelt) == [("user", "2 + 2?"), expected]
    assert (spelt.steps, spelt.is_cuttable) == (2, True)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("Step 2: b", "Step 2: b*"),
        ("Step 2:b", "Step 2: b*"),
        ("Step 2: b*", "Step 2: b*"),
        ("Step 1: b", "Step 2: Step 1: b*"),
        ("Step 20: b", "Step 2: Step 20: b*"),
    ],
)
def test_a_step_that_brings_its_number_has_it_once(step, expected):
    """Its own number and no other; what closes it isn't doubled either then."""
    spelt = spell(Solution(ASKED, ("a", step)), NOTHING, JOINED)

    assert contents(spelt)[-1][1] == f"Step 1: a*\n{expected}"


def test_separate_steps_are_texts_of_their_own():
    """The prompt, then each step and what stands behind it."""
    spelt = spell(Solution(ASKED, ("a", "b")), NOTHING, SEPARATE)

    assert spelt == FormattedItem(Parts("Q: 2 + 2?\n", (("a", "\n"), ("b", "\n"))), 2)


def test_steps_in_turns_are_answered_each():
    """The first stands behind the prompt; nothing of it may be cut."""
    spelt = spell(Solution((SYSTEM, *ASKED), ("a", "b")), NOTHING, IN_TURNS)

    assert contents(spelt) == [
        ("system", "Be brief."),
        ("user", "2 + 2? a"),
        ("assistant", "+"),
        ("user", "b"),
        ("assistant", "+"),
    ]
    assert (spelt.steps, spelt.is_cuttable) == (2, False)


@pytest.mark.parametrize("steps", [JOINED, IN_TURNS.model_copy(update={"split": "\n\n"})])
def test_a_response_is_split_into_the_same_steps(steps):
    """Parts without text are none."""
    said = {**ANSWER, "content": "4.\n\n \n\nYes.\n\n"}

    spelt = spell(Conversation((*ASKED, said)), NOTHING, steps)

    assert spelt == spell(Solution(ASKED, ("4.", "Yes.")), NOTHING, steps)


def test_an_empty_response_is_one_step():
    """It has a score like any other."""
    spelt = spell(Conversation((*ASKED, {**ANSWER, "content": ""})), NOTHING, JOINED)

    assert spelt == spell(Solution(ASKED, ("",)), NOTHING, JOINED)


@pytest.mark.parametrize(
    ("source", "steps", "error", "says"),
    [
        (Solution(ASKED, ("a",)), None, InvalidField, "send 'response' instead of 'steps'"),
        (Solution(ASKED, ()), JOINED, InvalidField, "'steps' is empty"),
        (Conversation((*ASKED, ANSWER)), SEPARATE, InvalidField, "send 'steps' instead"),
        (Text("x"), SEPARATE, InvalidField, "tokenized one by one"),
        (Ids((1,)), SEPARATE, InvalidField, "tokenized one by one"),
        (Solution((SYSTEM, *ASKED), ("a",)), SEPARATE, TemplateRefused, "one user turn"),
    ],
)
def test_steps_that_a_model_does_not_take_are_refused(source, steps, error, says):
    """With what to send instead."""
    with pytest.raises(error, match=says):
        spell(source, NOTHING, steps)


def test_ids_that_are_read_everywhere_need_no_steps():
    """Whatever the card reads of its own items."""
    everywhere = Ids((1, 2), reads_all=True)

    assert spell(everywhere, NOTHING, SEPARATE) == FormattedItem(everywhere)


# --- two responses ----------------------------------------------------------------------------


def test_two_responses_are_filled_in_in_one_pass():
    """A text that holds another's name stays as it is; a name may stand twice."""
    template = Template(pair=Pair(text="{prompt}/{a}/{b}/{prompt}"))

    spelt = spell(Contest(ASKED, "{b}", "{prompt}"), template, None)

    assert spelt == FormattedItem(Text("2 + 2?/{b}/{prompt}/2 + 2?"), is_cuttable=False)


def test_two_responses_go_through_the_chat_template():
    """As a user's turn, behind the card's system turn."""
    template = Template(pair=Pair(text="{prompt}/{a}/{b}", through="chat"), system="Judge.")

    spelt = spell(Contest(ASKED, "x", "y"), template, None)

    assert contents(spelt) == [("system", "Judge."), ("user", "2 + 2?/x/y")]


def test_a_prompt_of_several_turns_is_spelt_by_the_pair_s_own_strings():
    """Without them it is refused."""
    asked = (*ASKED, ANSWER, *ASKED)
    template = Template(pair=Pair(text="{prompt}/{a}/{b}", turns=TURNS))

    spelt = spell(Contest(asked, "x", "y"), template, None)

    assert spelt.item == Text("<U:2 + 2? A:4.\n\nYes.|U:2 + 2? >/x/y")
    with pytest.raises(TemplateRefused, match="one user turn"):
        spell(Contest(asked, "x", "y"), PAIR, None)


def test_models_of_one_and_of_two_responses_refuse_the_other_s_items():
    """A pair has no score for one, a score none for a pair."""
    with pytest.raises(InvalidField, match="has no score for one"):
        spell(Conversation((*ASKED, ANSWER)), PAIR, None)
    with pytest.raises(InvalidField, match="one response at a time"):
        spell(Contest(ASKED, "x", "y"), NOTHING, None)
