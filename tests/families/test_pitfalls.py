"""What serving code gets wrong with reward models, one by one; each has a test.

The numbers are those of the list that the families were taken from. A test here is named for its
number; ELSEWHERE names those that show a pitfall already, NOT_OURS says why there is none.
"""

from __future__ import annotations

import ast
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from assay import wire
from assay.cards import card as cards
from assay.cards.card import Card
from assay.cards.catalogue import embedded
from assay.engine import model_runner as trunks
from assay.engine import verification
from assay.errors import CheckpointError, InvalidField, ItemTooLong, TemplateRefused
from assay.items import Conversation, Ids, Solution, Text
from assay.prompts import notices
from assay.prompts.template import Template
from assay.scoring import items
from assay.worker_protocol import PrefixBatch
from tests.families import attributes, contrast, layout, pairwise, process, scalar, tokenizers
from tests.families.layout import TALK, encode, hidden, logits, read
from tests.families.serving import Served

torch.set_num_threads(1)
FAMILIES = "tests/families/test_families.py::test_a_family_has_its_reference_s_scores"
FIDELITY = "tests/fidelity/test_architectures.py"
TEMPLATE = "tests/prompts/test_template.py"
ELSEWHERE = {
    1: [f"{FIDELITY}::test_the_pad_id_never_moves_the_reading_position"],
    4: [FAMILIES],  # athene, internlm2: appended to each item, read there in any company
    5: [
        f"{FIDELITY}::test_the_padding_side_of_the_tokenizer_is_ignored",
        "tests/engine/test_packing.py::test_runs_stand_end_to_end_with_positions_of_their_own",
    ],
    7: [
        f"{TEMPLATE}::test_a_conversation_starts_with_exactly_one_bos",
        f"{TEMPLATE}::test_plain_text_starts_with_exactly_one_bos",
        f"{TEMPLATE}::test_a_defined_but_never_added_bos_is_not_added",
    ],
    12: [f"{TEMPLATE}::test_one_refused_conversation_among_many_is_found"],
    15: [
        f"{TEMPLATE}::test_a_prompt_over_the_limit_is_cut_from_the_left",
        f"{TEMPLATE}::test_response_end_cuts_the_response_and_keeps_its_ending",
        f"{TEMPLATE}::test_a_pair_over_the_limit_loses_the_start_of_its_prompt",
    ],
    17: ["tests/engine/test_checkpoint.py::test_the_head_is_float32_from_the_files_own_numbers"],
    18: [
        FAMILIES,
        f"{FIDELITY}::test_float32_scores_equal_eager_and_keep_their_bits_in_any_batch",
        f"{FIDELITY}::test_bfloat16_scores_keep_their_bits_in_any_batch",
    ],
    19: [  # gemma2, with a cap that bites
        f"{FIDELITY}::test_float32_scores_equal_eager_and_keep_their_bits_in_any_batch",
    ],
    20: [f"{FIDELITY}::test_an_item_has_the_same_bits_twice_and_among_five_hundred_others"],
    22: ["tests/engine/test_checkpoint.py::test_a_missing_tensor_stops_the_start_with_its_name"],
    23: ["tests/http/test_score.py::test_scores_are_raw_unless_a_sigmoid_is_asked_for"],
    27: ["tests/engine/test_packing.py::test_runs_stand_end_to_end_with_positions_of_their_own"],
    29: [FAMILIES],  # armorm, qrm: of several answers the last one's beginning
    30: [FAMILIES],  # beaver-cost
    31: [
        FAMILIES,  # each item twice in one batch
        "tests/http/test_best_of_n.py::test_equal_scores_go_to_the_lowest_index_and_are_listed",
        "tests/http/test_compare.py::test_identical_responses_tie",
    ],
}
NOT_OURS = {
    8: "a flag of NeMo's own server",
    21: "nothing is computed quantized: a trunk runs in float32 or in 16 bits",
    24: "limits of other servers",
}
PITFALLS = range(1, 32)
LAYOUTS = {
    one.name: one
    for module in (scalar, attributes, process, contrast, pairwise)
    for one in module.LAYOUTS
}
CLOSE = 1e-5
PROMPT_END = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"


@pytest.fixture
def make(tmp_path):
    """Return the function from a layout's name to its folder, with the catalogue's card."""

    def build(name, *, card=lambda text: text):
        folder = tmp_path / LAYOUTS[name].card
        folder.mkdir()
        LAYOUTS[name].build(folder)
        text = (embedded() / LAYOUTS[name].card / cards.FILE_NAME).read_text(encoding="utf-8")
        (folder / cards.FILE_NAME).write_text(card(text), encoding="utf-8")
        return folder

    return build


def limited(tokens):
    """Return the change of a card that allows so many tokens."""

    def change(text):
        text = re.sub(r"\n\[limits\]\nmax_tokens = \d+\n", "", text)
        return f"{text}\n[limits]\nmax_tokens = {tokens}\n"

    return change


def configure(folder, **changes):
    """Change a checkpoint's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")


def template(folder, *, max_tokens=None, **spec):
    """Return a folder's template, by its card or by another [template]."""
    card = Card.model_validate({"template": spec}) if spec else cards.read(folder)
    return Template(folder, card, max_tokens=max_tokens or card.limits.max_tokens)


def rendered(of, source, truncation="prompt_start"):
    """Render one item, raising its error."""
    (one,) = of.render_all([source], truncation)
    if isinstance(one, Exception):
        raise one
    return one


def said(prompt, response):
    """Return one exchange."""
    return Conversation(
        ({"role": "user", "content": prompt}, {"role": "assistant", "content": response})
    )


def solved(prompt, steps):
    """Return a prompt and the steps that answer it."""
    return Solution(({"role": "user", "content": prompt},), tuple(steps))


def shelf():
    """Return every card by its name."""
    paths = sorted(embedded().glob(f"*/{cards.FILE_NAME}"))
    return {path.parent.name: cards.read(path.parent) for path in paths}


def strings(value):
    """Yield every text in what a card says."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from strings(one)


# --- the list itself --------------------------------------------------------------------------


def named_in(path):
    """Return the names of a module's tests."""
    root = Path(__file__).parents[2]
    body = ast.parse((root / path).read_text(encoding="utf-8")).body
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in body if isinstance(node, functions)}


def test_every_pitfall_has_a_test_or_a_reason():
    """And what is named elsewhere is there."""
    here = {
        int(number)
        for name in named_in("tests/families/test_pitfalls.py")
        for number in re.findall(r"^test_(\d\d)_", name)
    }
    assert here | ELSEWHERE.keys() | NOT_OURS.keys() == set(PITFALLS)
    for named in {one for tests in ELSEWHERE.values() for one in tests}:
        path, name = named.split("::")
        assert name in named_in(path), named


# --- reading position -------------------------------------------------------------------------


def padding_with(folder, pad):
    """Make a token the tokenizer's padding and config.json's; return its id."""
    made = layout.tokenizer(folder)
    made.pad_token = pad
    made.save_pretrained(folder)
    configure(folder, pad_token_id=made.pad_token_id)
    return made.pad_token_id


@pytest.mark.parametrize("pad", ["<|eot_id|>", "<|begin_of_text|>", None])
def test_02_no_pad_token_moves_where_a_card_s_head_reads(make, pad):
    """Pad equal to EOS, which ends each turn: chosen and rejected are read at their own ends."""
    folder = make("grm-linear")
    padding_with(folder, pad)
    wanted = [TALK, TALK | {"response": "Yes, I am."}]

    chosen, rejected = Served(folder).verdicts(wanted)

    expected = [LAYOUTS["grm-linear"].reference(folder, item).score for item in wanted]
    assert [*chosen.rewards, *rejected.rewards] == pytest.approx(expected, abs=CLOSE)
    assert chosen.rewards != rejected.rewards


@torch.inference_mode()
def own_scores(folder, sequences):
    """Return what transformers' own class says of sequences of ids, one by one, unpadded."""
    kind = transformers.AutoModelForSequenceClassification
    model = kind.from_pretrained(folder, attn_implementation="eager").eval()
    return [float(model(input_ids=torch.tensor([ids])).logits[0, 0]) for ids in sequences]


@pytest.mark.parametrize("pad", ["<|eot_id|>", "<|begin_of_text|>", None])
def test_02_transformers_own_class_is_read_where_it_reads(make, pad):
    """At the last token that isn't padding: what it was trained with. In any batch, kept or not."""
    folder = make("fsfairx")
    token = padding_with(folder, pad) or 7
    long = [9, 8, 7, 6, 5, 4, 3, 9, 8, 6, 5]
    every = [
        [*long, token, token],
        long,
        [token, *long],
        [*long[:8], *8 * [token]],
        [*long[:8], *9 * [token], 9],
        [token, token],
    ]
    talk = rendered(template(folder), items.source(wire.Item(**TALK))).ids.tolist()
    wanted = [TALK, *({"input_ids": ids} for ids in every)]
    served = Served(folder)

    first, again = served.verdicts(wanted), served.verdicts(wanted)

    found = [one.rewards[0] for one in first]
    assert found == pytest.approx(own_scores(folder, [talk, *every]), abs=CLOSE)
    assert found == [one.rewards[0] for one in again]
    assert found == [one.rewards[0] for one in served.verdicts(wanted, together=False)]


def test_02_a_card_may_read_the_last_token_whatever_it_is(make):
    """`[read] at = "last"` says so; the template then ends where the score is read."""
    folder = make("fsfairx", card=lambda text: f'{text}\n[read]\nat = "last"\n')
    token = padding_with(folder, "<|eot_id|>")

    (verdict,) = Served(folder).verdicts([{"input_ids": [9, 8, 7, token]}])

    configure(folder, pad_token_id=None)
    assert verdict.rewards == pytest.approx(own_scores(folder, [[9, 8, 7, token]]), abs=CLOSE)


@pytest.mark.parametrize(("pad", "count"), [("<|eot_id|>", 1), ("<|begin_of_text|>", 0)])
def test_02_a_template_that_ends_in_padding_is_told_with_both_tokens(make, pad, count):
    """Whoever trained with another rule learns it before the first score."""
    folder = make("fsfairx")
    padding_with(folder, pad)
    one = template(folder)

    sample = rendered(one, said("Hello", "Hi"))

    told = notices.of(one, sample)

    assert len(told) == count
    before = repr(one.tokenizer.tokens(sample.ids[-2:].tolist())[0])
    assert all("'<|eot_id|>'" in text and before in text for text in told)


def test_03_pads_within_a_sequence_are_tokens_like_others(make):
    """No mask counts them: an item is read at its last token, whatever that is."""
    folder = make("grm-linear")
    _, config = read(folder)
    pad = config["pad_token_id"]
    every = [[pad, 9, 8, 7], [9, pad, pad, 8, 7], [9, 8, 7, pad], [pad, pad]]

    verdicts = Served(folder).verdicts([{"input_ids": ids} for ids in every])

    weights, _ = read(folder)
    head, bias = weights["v_head.summary.weight"][0], weights["v_head.summary.bias"][0]
    expected = [float(hidden(folder, ids)[-1] @ head + bias) for ids in every]
    assert [one.rewards[0] for one in verdicts] == pytest.approx(expected, abs=CLOSE)


def test_06_a_template_with_another_ending_is_read_at_the_same_tokens(make):
    """Before each "+", however many tokens the template puts behind it."""
    folder = make("rlhflow-prm")
    made = layout.tokenizer(folder)
    made.chat_template = process.LLAMA31.replace(
        "trim + '<|eot_id|>' }}{% endfor %}", "trim + '<|eot_id|>\n' }}{% endfor %}"
    )
    assert made.chat_template != process.LLAMA31
    made.save_pretrained(folder)
    item = process.ITEMS[3]

    (verdict,) = Served(folder).verdicts([item])

    pair = made.convert_tokens_to_ids(["+", "-"])
    text, expected = process.llama31_opening(), []
    for number, step in enumerate(item["steps"]):
        asked = f"{item['prompt']} {step}" if number == 0 else step
        for role, content in (("user", asked), ("assistant", "+")):
            text += process.llama31_turn(role, content) + "\n"
        row = logits(folder, encode(folder, text))[-4]
        expected.append(row[pair].softmax(-1)[0].item())
    assert verdict.steps == pytest.approx(expected, abs=CLOSE)


# --- templates and special tokens -------------------------------------------------------------


@pytest.mark.parametrize(
    ("bos", "counts"),
    [("tokenizer", (1, 1, 1)), ("one", (1, 1, 1)), ("none", (0, 0, 0)), ("keep", (1, 2, 0))],
)
def test_07_a_card_says_how_many_bos_there_are(make, bos, counts):
    """Of a template that writes one, of a text with two and of one with none."""
    folder = make("skywork-v0.2-llama")
    begin = "<|begin_of_text|>"
    sources = [said("Hi", "Ho"), Text(f"{begin}{begin}Hi"), Text("Hi")]

    every = [rendered(template(folder, bos=bos), one).ids.tolist() for one in sources]

    token = layout.tokenizer(folder).bos_token_id
    assert tuple(ids.count(token) for ids in every) == counts


@pytest.mark.parametrize(
    ("system", "front"),
    [("allow", tokenizers.QWEN_SYSTEM), ("Be brief.", "Be brief."), (scalar.BOXED, scalar.BOXED)],
)
def test_09_a_card_s_system_turn_stands_where_the_template_has_its_own(make, system, front):
    """Qwen's template puts one in front where none is sent; a caller's own stays."""
    of = template(make("openrlhf-qwen"), system=system)
    talk = said("Hi", "Ho")
    own = Conversation(({"role": "system", "content": "Mine."}, *talk.messages))

    starts = [f"<|im_start|>system\n{one}<|im_end|>\n<|im_start|>user" for one in (front, "Mine.")]
    assert rendered(of, talk).text.startswith(starts[0])
    assert rendered(of, own).text.startswith(starts[1])


def test_09_a_system_turn_is_refused_where_a_card_knows_none(make):
    """Skywork's models were trained without one."""
    folder = make("skywork-v2-qwen3")
    turns = ({"role": "system", "content": "Mine."}, *said("Hi", "Ho").messages)

    with pytest.raises(TemplateRefused, match="trained without system turns"):
        rendered(template(folder), Conversation(turns))


@pytest.mark.parametrize(("eos", "token"), [("keep", "Ċ"), ("ensure", "<|im_end|>")])
def test_10_a_newline_behind_the_last_turn_stays_unless_a_card_strips_it(make, eos, token):
    """Which of the two was trained can't be seen in the files."""
    of = template(make("openrlhf-qwen"), eos=eos)

    assert of.read_positions.read_token(rendered(of, said("Hi", "Ho")))[1] == token


@pytest.mark.parametrize("source", ["conversation", "text"])
def test_11_a_cut_is_openrlhfs_where_its_card_says_so(make, source):
    """Its dataset keeps the first tokens of the whole text and writes EOS over the last of them.

    'ensure' keeps what the template writes behind the response instead.
    """
    folder = make("openrlhf")
    item = said("Hi", "Ho, ho, ho and a bottle of rum. " * 9)
    whole = rendered(template(folder, eos="force", bos="keep"), item)
    given = item if source == "conversation" else Text(whole.text)
    eos = layout.tokenizer(folder).eos_token_id

    by_eos = {
        eos: rendered(template(folder, eos=eos, bos="keep", max_tokens=60), given, "response_end")
        for eos in ("force", "ensure")
    }

    forced = by_eos["force"]
    assert forced.ids.tolist() == [*whole.ids[:59].tolist(), eos]
    assert forced.cut == ("response" if source == "conversation" else "text")
    assert len(by_eos["ensure"].ids) <= 60
    assert by_eos["ensure"].ids.tolist() != forced.ids.tolist()


@pytest.mark.parametrize("truncation", ["prompt_start", "response_end"])
def test_11_an_eos_that_the_template_leaves_out_is_there_and_read(make, truncation):
    """Once, and behind a sequence that was cut, too."""
    folder = make("openrlhf")
    card = cards.read(folder)
    end = "<|end_of_text|>"
    sources = [said("Hi", "Ho"), said("Hi " * 60, "Ho " * 10), Text(f"Hi {end}")]
    if truncation == "response_end":
        sources.append(said("Hi", "Ho " * 90))

    for source in sources:
        of = Template(folder, card, max_tokens=60)
        one = rendered(of, source, truncation)
        assert of.read_positions.read_token(one)[1] == end
        assert of.tokenizer.tokens(one.ids).count(end) == 1


@pytest.mark.parametrize(
    "roles", [("user", "user", "assistant"), ("system", "user", "assistant"), ("assistant",)]
)
def test_12_turns_that_a_template_refuses_fail_alone(make, roles):
    """An error of the item; its neighbours have their scores."""
    folder = make("skywork-v0.2-gemma-2", card=lambda text: text.replace('system = "none"', ""))
    bad = Conversation(tuple({"role": role, "content": "Hi"} for role in roles))
    served = Served(folder)

    first, refused, last = served.scored([said("Hi", "Ho"), bad, said("Hi", "Hu")])

    assert isinstance(refused.error, TemplateRefused)
    assert (first.error, last.error) == (None, None)


@pytest.mark.parametrize("name", shelf())
def test_13_no_backslash_of_a_card_was_lost(name):
    """`\\boxed` in a plain string is a backspace and "oxed"."""
    for text in strings(shelf()[name].model_dump()):
        assert not re.findall(r"[\x00-\x08\x0b-\x1f]", text)
        assert text.count("boxed") == text.count("\\boxed")


def test_14_steps_that_hold_the_marker_are_refused(make):
    """Too many places: no telling which is whose step. In the prompt as well."""
    served = Served(make("qwen2.5-math-prm"))
    good = solved("2 + 2?", ["4.", "Yes."])
    bad = [solved("2 + 2?", ["4.<extra_0>", "Yes."]), solved("2 <extra_0>?", ["4.", "Yes."])]

    found = served.scored([good, *bad])

    assert [type(one.error) for one in found] == [type(None), InvalidField, InvalidField]
    assert "2 steps were sent, and the model's marker stands at 3" in found[1].error.message


def test_14_a_step_that_was_sent_is_one_whatever_it_holds(make):
    """Code with a blank line isn't split again; a response is, its empty parts being none."""
    served = Served(make("qwen2.5-math-prm"))
    code = "```\na = 1\n\nb = 2\n```"

    sent, split = served.verdicts(
        [
            {"prompt": "Add.", "steps": [code, "So 3."]},
            {"prompt": "Add.", "response": f"{code}\n\nSo 3.\n\n"},
        ]
    )

    assert (len(sent.steps), len(split.steps)) == (2, 3)


@pytest.mark.parametrize(
    "step", ["1 + 1 = 2", "+", "++", "a +\n\n+", "+<|eot_id|>", "assistant\n\n+"]
)
def test_14_a_plus_within_a_step_is_no_answer(make, step):
    """RLHFlow's models are read before the "+" that the assistant says, and there only."""
    served = Served(make("rlhflow-prm"))

    (verdict,) = served.verdicts([{"prompt": "1 + 1?", "steps": [step, f"So {step}", "2"]}])

    assert len(verdict.steps) == 3


# --- truncation -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2.5-math-prm", "math-shepherd", "trl-prm", "skywork-o1-prm"])
def test_15_a_prompt_that_is_cut_moves_no_step(make, name):
    """Every step is read at its own marker, as of the ids that are left."""
    folder = make(name)
    steps = process.LAID
    whole = rendered(template(folder), solved("Count. " * 60 + process.HENS, steps))
    of = template(folder, max_tokens=len(whole.ids) - 100)

    cut = rendered(of, solved("Count. " * 60 + process.HENS, steps))

    assert (cut.truncated, len(cut.ids)) == (True, len(whole.ids) - 100)
    assert cut.ids[cut.read_at.positions].tolist() == whole.ids[whole.read_at.positions].tolist()
    assert (whole.read_at.positions - cut.read_at.positions).tolist() == [100] * len(steps)
    with pytest.raises(ItemTooLong):
        rendered(template(folder, max_tokens=40), solved(process.HENS, steps * 3))


def test_15_no_step_is_cut_away(make):
    """With `response_end`, too: each step that was sent has a score.

    A marker within one step may not stand for that of another, which was cut.
    """
    folder = make("qwen2.5-math-prm")
    source = solved("2?", ["a<extra_0>b", "c" * 40, "d" * 400])
    of = template(folder, max_tokens=len(rendered(template(folder), solved("2?", ["c" * 60])).ids))

    with pytest.raises(ItemTooLong):
        rendered(of, source, "response_end")


def test_15_a_cut_prompt_leaves_a_policy_its_response(make):
    """The same tokens are asked for, BOS and the end of the prompt before them."""
    folder = make("policy")
    source = said("Tell me. " * 40, "A panda is a bear.")

    whole = rendered(template(folder), source)
    cut = rendered(template(folder, max_tokens=60), source)

    assert (cut.truncated, len(cut.ids)) == (True, 60)
    assert cut.read_at.next_ids.tolist() == whole.read_at.next_ids.tolist()
    assert cut.ids[cut.read_at.positions + 1].tolist() == cut.read_at.next_ids.tolist()


def test_15_a_response_that_the_template_rewrites_is_never_cut(make):
    """Where it ends can't be told, so neither can what must stay behind it."""
    folder = make("skywork-v0.2-llama")
    made = layout.tokenizer(folder)
    made.chat_template = tokenizers.LLAMA3.replace("| trim", "| upper")
    made.save_pretrained(folder)

    for truncation in ("prompt_start", "response_end"):
        with pytest.raises(ItemTooLong, match="rewrites the response"):
            rendered(template(folder, max_tokens=40), said("Hi " * 40, "ho"), truncation)


def test_15_what_must_stay_may_be_longer_than_the_model_takes(make):
    """A long ending alone is too much; nothing over the limit is returned."""
    folder = make("bge-reranker-gemma")
    source = said("Hi", "Ho " * 40)
    ending = len(rendered(template(folder), said("", "")).ids)

    with pytest.raises(ItemTooLong):
        rendered(template(folder, max_tokens=ending // 2), source, "response_end")
    assert len(rendered(template(folder, max_tokens=ending + 9), source, "response_end").ids) == (
        ending + 9
    )


def test_16_the_catalogue_states_the_published_limits():
    """Those that config.json doesn't."""
    limits = {name: card.limits.max_tokens for name, card in shelf().items()}
    for beginning, tokens in {
        "skywork-reward-v2-": 16_384,
        "llama-3.1-nemotron-": 4096,
        "llama-3.3-nemotron-": 4096,
        "armorm-": 4096,
        "athene-": 4096,
        "starling-rm-7b": 2048,
        "oasst-reward-model-deberta": 512,
        "pairrm": 2048,
    }.items():
        found = {limit for name, limit in limits.items() if name.startswith(beginning)}
        assert found == {tokens}, beginning


def test_16_a_card_s_limit_bounds_what_is_rendered(make):
    """Whatever config.json allows."""
    served = Served(make("grm-linear", card=limited(64)))
    (found,) = served.scored([said("Hi " * 100, "Ho")])
    one = rendered(served.templates[0], said("Hi " * 100, "Ho"))

    assert len(one.ids) in {63, 64}  # a space at the cut may go with the word before it
    assert (one.truncated, found.error) == (True, None)


# --- numbers ----------------------------------------------------------------------------------


@torch.inference_mode()
def test_17_a_card_s_head_is_float32_above_a_bfloat16_trunk(make):
    """Its numbers aren't rounded to what bfloat16 can tell apart."""
    folder = make("grm-mlp")
    card = cards.read(folder)
    trunk = trunks.load(folder, card, device=torch.device("cpu"), dtype=torch.bfloat16)
    verification.verify(trunk)
    ids = rendered(Template(folder, card), said("Name a prime.", "Seven.")).ids

    (found,) = trunk.score(PrefixBatch.unshared([ids]))

    weights, _ = read(folder)
    own = transformers.LlamaModel.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="eager"
    )
    state = own(input_ids=torch.from_numpy(ids)[None].long()).last_hidden_state[0, -1].float()
    name = "v_head.summary"
    inner = torch.relu(weights[f"{name}.0.weight"] @ state + weights[f"{name}.0.bias"])
    expected = weights[f"{name}.2.weight"] @ inner + weights[f"{name}.2.bias"]
    assert trunk.dtype == torch.bfloat16
    assert found.tolist() == pytest.approx(expected.tolist(), abs=0.02)
    assert torch.tensor(found).bfloat16().double().tolist() != found.tolist()


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("athene", "v_head.weight"),
        ("inf-orm", "score.2.bias"),
        ("armorm", "gating.logit_scale"),
        ("beaver-reward-normalized", "normalizer.var"),
        ("qrm-llama3", "gating.layers.2.running_mean"),
        ("rlhflow-prm", "lm_head.weight"),
        ("trl-value-head", "v_head.summary.bias"),
    ],
)
def test_22_a_head_that_the_files_lack_stops_the_start(make, name, lost):
    """It is never made up; the tensor is named."""
    folder = make(name)
    path = folder / ("value_head.safetensors" if name == "trl-value-head" else "model.safetensors")
    weights = load_file(path)
    del weights[lost]
    save_file(weights, path, metadata={"format": "pt"})

    with pytest.raises(CheckpointError, match=re.escape(lost)):
        Served(folder)


@pytest.mark.parametrize("name", ["trl-value-head", "llama-factory", "ldl"])
def test_22_a_head_s_own_file_that_is_missing_stops_the_start(make, name):
    """The file is named."""
    folder = make(name)
    file = next(head.file for head in cards.read(folder).heads.values() if head.file)
    (folder / file).unlink()

    with pytest.raises(CheckpointError, match=re.escape(file)):
        Served(folder)


def test_23_a_sigmoid_is_where_its_family_published_one():
    """And nowhere by default."""
    squashed = {name for name, card in shelf().items() if card.score.transform == "sigmoid"}

    assert {name.rpartition("-")[0] for name in squashed} == {"skywork-o1-open-prm-qwen-2.5"}
    assert Card().score.transform == "identity"
    assert Card().score.rule == "index"


def test_25_a_probability_of_zero_is_a_step_s_like_any_other(make):
    """Steps are told by their places, not by what isn't 0."""
    folder = make("qwen2.5-math-prm")
    weights = load_file(folder / "model.safetensors")
    weights["score.2.weight"] *= 1e6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    found = Served(folder).verdicts(process.ITEMS)

    every = [step for one in found for step in one.steps]
    assert {0.0, 1.0} <= set(every)
    for item, one in zip(process.ITEMS, found, strict=True):
        expected = LAYOUTS["qwen2.5-math-prm"].reference(folder, item).steps
        assert one.steps == pytest.approx(expected, abs=CLOSE)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("skywork-v0.2-llama", ["attention_dropout", "classifier_dropout"]),
        (
            "open-assistant-deberta",
            [
                "hidden_dropout_prob",
                "attention_probs_dropout_prob",
                "pooler_dropout",
                "cls_dropout",
            ],
        ),
        ("open-assistant-pythia", ["hidden_dropout", "attention_dropout", "classifier_dropout"]),
        ("grm-mlp", ["attention_dropout"]),
    ],
)
def test_26_nothing_is_dropped_out(make, name, rates):
    """Whatever rates config.json has, the numbers are those of evaluation."""
    folder = make(name)
    item = LAYOUTS[name].items[1]
    expected = LAYOUTS[name].reference(folder, item).score
    configure(folder, **dict.fromkeys(rates, 0.5))

    served = Served(folder)

    (first,), (second,) = served.verdicts([item]), served.verdicts([item])
    assert first == second
    assert first.rewards == pytest.approx([expected], abs=CLOSE)
    foreign = [
        one for one in served.trunks[0].model.modules() if "assay" not in type(one).__module__
    ]
    assert not any(one.training for one in foreign)


@pytest.mark.parametrize("name", ["qrm-llama3", "qrm-llama3.1"])
def test_26_a_gate_s_batch_norm_does_not_see_the_batch(make, name):
    """Its moments are the file's: one item's score among others has the bits it has alone."""
    served = Served(make(name))
    items = LAYOUTS[name].items

    alone = [served.verdicts([item], together=False)[0] for item in items]

    assert served.verdicts(items) == alone


# --- input ------------------------------------------------------------------------------------


def test_28_a_label_s_probability_is_among_the_labels(make):
    """Not among the whole vocabulary, where "+" is one of many."""
    folder = make("rlhflow-prm")
    item = {"prompt": "1 + 1?", "steps": ["2"]}

    (verdict,) = Served(folder).verdicts([item])

    text = process.llama31_opening() + process.llama31_turn("user", "1 + 1? 2")
    row = logits(folder, encode(folder, text + process.llama31_turn("assistant", "+")))[-3]
    plus, minus = layout.tokenizer(folder).convert_tokens_to_ids(["+", "-"])
    odds = float(row[plus] - row[minus])
    assert verdict.steps == pytest.approx([1 / (1 + math.exp(-odds))], abs=CLOSE)
    assert verdict.steps[0] > 5 * row.softmax(-1)[plus].item()


@pytest.mark.parametrize("name", ["armorm", "qrm-llama3"])
def test_29_an_item_without_the_gate_s_place_fails_alone(make, name):
    """Another template's text, ids, and a response that leaves no room for the frame."""
    served = Served(make(name, card=limited(100)))
    bad = [Text("[INST] Hi [/INST] Ho"), Ids((9, 8, 7)), said("Hi", "h" * 97)]

    first, *refused, last = served.scored([said("Hi", "Ho"), *bad, said("Hi", "Hu")])

    assert [type(one.error) for one in refused] == [InvalidField, InvalidField, ItemTooLong]
    assert (first.error, last.error) == (None, None)


def test_29_text_with_the_gate_s_place_is_scored_as_its_conversation(make):
    """Whoever rendered it."""
    served = Served(make("armorm"))
    text = (
        f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi{PROMPT_END}Ho<|eot_id|>"
    )

    one, other = served.verdicts([{"text": text}, {"prompt": "Hi", "response": "Ho"}])

    assert one == other


def test_30_costs_are_turned_so_that_higher_is_better():
    """And nothing else is."""
    turned = {name for name, card in shelf().items() if card.score.transform == "negate"}

    assert turned == {name for name in shelf() if "cost" in name}


@pytest.mark.parametrize("name", ["armorm", "qwen2.5-math-prm", "dpo"])
def test_31_equal_items_have_equal_bits_in_one_batch(make, name):
    """Whatever stands between them."""
    served = Served(make(name))
    items = LAYOUTS[name].items

    found = served.verdicts([items[0], *items[1:], items[0], items[0]])

    assert found[0] == found[-2] == found[-1]
    assert np.isfinite(found[0].rewards).all()
