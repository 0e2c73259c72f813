"""How a score is computed, declared: trunk, template, heads, reading positions, score.

A card without any of these tables is a checkpoint of transformers' own class
`…ForSequenceClassification`. With `[heads]` the trunk is transformers' and the heads are the
card's: lists of layers over tensors named here. No table states a size; files do.

Here is only what a card may say. What it means: `engine.checkpoint` and `engine.readout` for trunk
and heads, `prompts.template` for template and positions, `reward.score` for the score.
"""

from __future__ import annotations

import datetime as dt  # noqa: TC003  pydantic reads it
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Token = str | int  # as the tokenizer spells it, or its id
_LONGEST_NAME = 255


def _plain(name: str) -> str:
    if (
        name in ("", ".", "..")
        or len(name) > _LONGEST_NAME
        or any(character in name for character in "/\\\0")
    ):
        raise ValueError("the name of what lies beside the card, without a path")
    return name


Beside = Annotated[str, AfterValidator(_plain)]


class Table(BaseModel):
    """Base of a card's tables: what isn't known is an error, with the field's path."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def says(self, *names: str) -> str | None:
        """Return the first of some fields that isn't at its default, or None.

        For fields that do nothing in some cards: such a card would promise what isn't so.
        """
        fields = type(self).model_fields
        return next((name for name in names if getattr(self, name) != fields[name].default), None)


# --- trunk ----------------------------------------------------------------------------------


class Trunk(Table):
    """The decoder or encoder below the heads."""

    architecture: str | None = Field(
        default=None,
        description="transformers' class, such as LlamaModel; default: the base model of "
        "config.json's model_type.",
    )
    prefix: str | None = Field(
        default=None,
        description="What its tensors' names begin with in the files, such as 'model.'; default: "
        "as transformers finds it.",
    )
    layout: Literal["transformers", "internlm2"] = Field(
        default="transformers",
        description="'internlm2': fused wqkv and InternLM2's names, loaded as a Llama.",
    )
    unused: list[str] = Field(
        default=[],
        description="Tensors in the files that no score needs, such as 'lm_head.*'. Any other left "
        "over is an error.",
    )
    attention: Literal["packed", "padded"] | None = Field(
        default=None, description="Which way it runs; default: packed where that equals eager."
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="What it runs in on a GPU; default: as the files have it."
    )
    quantize: Literal["int8", "fp8"] | None = Field(
        default=None,
        description="Its linear layers in eight bits, unless the setting `quantize` says another.",
    )

    @model_validator(mode="after")
    def _is_of_its_layout(self) -> Self:
        if self.layout != "transformers" and (idle := self.says("architecture", "prefix")):
            raise ValueError(f"'{idle}' goes with layout = 'transformers'")
        return self


# --- template -------------------------------------------------------------------------------


class Turns(Table):
    """A conversation as fixed strings. `{content}` stands for a turn's own text."""

    system: str | None = Field(default=None, description="None: a system turn is refused.")
    user: str
    assistant: str
    begin: str = ""
    end: str = ""


class Roles(Table):
    """What the chat template calls those who speak; found by itself where its names are plain.

    A reranker's template may take a `query` and a `document`: the prompt is the one, the response
    the other. Messages may have either names.
    """

    system: str = "system"
    user: str = "user"
    assistant: str = "assistant"


class Pair(Table):
    """Two responses in one sequence, for models that compare them.

    `{prompt}`, `{a}` and `{b}` stand for the texts. `turns` spells a prompt of several turns.
    """

    text: str
    through: Literal["chat", "nothing"] = Field(
        default="nothing", description="'chat': the text is a user turn of the chat template."
    )
    turns: Turns | None = None


class Template(Table):
    """From a conversation to text to ids."""

    chat: str | None = Field(
        default=None, description="A Jinja chat template; default: the tokenizer's own."
    )
    chat_name: str | None = Field(
        default=None,
        description="Which of a tokenizer's several chat templates; default: 'tool_use' where an "
        "item has tools and there is one, else 'default'.",
    )
    chat_template_kwargs: dict[str, str | int | float | bool] = Field(
        default={},
        description="Variables of the chat template, such as enable_thinking or date_string; a "
        "request's own of the same name win.",
    )
    date: dt.date | None = Field(
        default=None,
        description="What a chat template that writes the date takes for today, such as "
        "2024-07-26; default: the moment of the start.",
    )
    turns: Turns | None = Field(default=None, description="Fixed strings instead.")
    pair: Pair | None = None
    roles: Roles | None = Field(default=None, description="The chat template's names for roles.")
    system: str = Field(
        default="allow",
        description="'allow': as sent; 'none': a system turn is refused; else the text of a system "
        "turn that is put in front where none is sent.",
    )
    generation_prompt: bool = Field(
        default=False, description="Whether the template's generation prompt ends the text."
    )
    bos: Literal["tokenizer", "one", "none", "keep"] = Field(
        default="tokenizer",
        description="'tokenizer': exactly one if the tokenizer itself puts one before plain text; "
        "'one': exactly one if it has one at all; 'none': those in front are taken away; 'keep': "
        "as the text has it.",
    )
    eos: Literal["keep", "ensure", "force"] = Field(
        default="keep",
        description="'ensure': the text is stripped of newlines at its end and gets ' ' + EOS "
        "unless it ends with EOS; 'force': the same, and where a response's end is cut the whole "
        "is: EOS takes the place of the last token that fits (OpenRLHF).",
    )
    append: list[Token] = Field(default=[], description="Tokens put behind everything.")
    special_tokens: Literal["parse", "refuse", "split"] = Field(
        default="parse",
        description="How special tokens in the texts of an item are taken, unless the request "
        "says. 'parse': as transformers does, as if the template had written them; 'refuse': the "
        "item is; 'split': they are text.",
    )
    expected_read_token: str | None = Field(
        default=None,
        description="What stands where a sample conversation is read; another token is an error.",
    )

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        if self.chat is not None and self.turns is not None:
            raise ValueError("give either 'chat' or 'turns'")
        if self.turns is not None and self.date is not None:
            raise ValueError("'date' is a chat template's; write it into 'turns'")
        if self.turns is not None and self.generation_prompt:
            raise ValueError("'generation_prompt' is a chat template's; 'turns' has its 'end'")
        if self.chat_name is not None and (self.chat is not None or self.turns is not None):
            raise ValueError("'chat_name' chooses one of the tokenizer's: leave it out")
        return self


class Steps(Table):
    """A solution in steps, for models that score each of them.

    `joined`: the response is the steps as `step` spells each, with `between` between them.
    `separate`: prompt, each step and `between`, which stands behind every step, are tokenized each
    alone; a step is read at its last token. The prompt is spelt as `prompt`.
    `turns`: each step is a user turn, the first behind the prompt and `between`; the assistant
    answers `reply`.
    """

    form: Literal["joined", "separate", "turns"] = "joined"
    prompt: str = Field(default="{prompt}", description="Of 'separate': how the prompt is spelt.")
    step: str = Field(default="{step}", description="How a step is spelt; {number} counts from 1.")
    between: str = ""
    reply: str = Field(default="+", description="Of 'turns': what the assistant says.")
    split: str | None = Field(
        default=None,
        description="Where a response sent as one text is split; None: steps must be sent.",
    )
    aggregate: Literal["last", "min", "prod", "mean"] = Field(
        default="min", description="From the steps' scores to one, unless the request says."
    )
    threshold: float = Field(
        default=0.5, description="The first step whose score is below counts as the first error."
    )

    @model_validator(mode="after")
    def _is_of_its_form(self) -> Self:
        if self.form != "separate" and self.says("prompt"):
            raise ValueError("'prompt' goes with form = 'separate'")
        if self.form != "turns" and self.says("reply"):
            raise ValueError("'reply' goes with form = 'turns'")
        return self


# --- reading --------------------------------------------------------------------------------


class Read(Table):
    """Where in a sequence a head reads.

    `last`, `first`: its last or first token. `mean`: all of them (encoders). `pattern`: where the
    tokens of `pattern` stand side by side, at the one of them that `offset` counts to. `steps`:
    where each step of a `separate` item ends. `prompt`: where the prompt's turns end, rendered
    without the response. Without this table transformers' own class of a decoder is read where it
    reads itself, at the last token that isn't config.json's `pad_token_id`.
    """

    at: Literal["last", "first", "mean", "pattern", "steps", "prompt"] = "last"
    pattern: list[Token] = Field(default=[], description="Tokens side by side.")
    offset: int = Field(default=0, ge=0, description="Which token of the pattern is read.")
    which: Literal["all", "last", "each"] = Field(
        default="last",
        description="'last': where the pattern stands last; 'all': everywhere, one value a place; "
        "'each': each token of 'pattern' by itself, where it stands last, in this order.",
    )

    @model_validator(mode="after")
    def _has_a_pattern(self) -> Self:
        if (self.at == "pattern") != bool(self.pattern):
            raise ValueError("'pattern' goes with at = 'pattern'")
        if self.pattern and self.offset >= len(self.pattern):
            raise ValueError("'offset' counts a token of 'pattern', from 0")
        if not self.pattern and (idle := self.says("offset", "which")):
            raise ValueError(f"'{idle}' goes with at = 'pattern'")
        if self.which == "each" and self.offset:
            raise ValueError("'offset' counts within a pattern, and which = 'each' reads all of it")
        return self

    @property
    def is_several(self) -> bool:
        """Whether an item has as many values as its text has places."""
        return self.at == "steps" or (self.at == "pattern" and self.which == "all")


# --- heads ----------------------------------------------------------------------------------


class Linear(Table):
    """A linear layer: tensors by name; `transposed` where the file has (in, out).

    With `groups` it goes across so many equal parts: it takes the numbers that stand at one place
    of each part, and does so for every place.
    """

    op: Literal["linear"]
    weight: str
    bias: str | None = None
    transposed: bool = False
    groups: int = Field(default=1, gt=0)


class LinearEach(Table):
    """A linear layer for each member: tensors (members, in, out) and (members, out) by name.

    Each takes its own of as many equal parts, or all the same numbers where there is one part.
    """

    op: Literal["linear_each"]
    weight: str
    bias: str | None = None


class Activation(Table):
    """A function of each number."""

    op: Literal["relu", "tanh", "gelu", "silu", "selu", "leaky_relu", "sigmoid", "exp"]


class Softmax(Table):
    """Softmax of each of `groups` equal parts, at a temperature."""

    op: Literal["softmax"]
    groups: int = Field(default=1, gt=0)
    temperature: float = Field(default=1.0, gt=0)


class BatchNorm(Table):
    """Batch normalization in evaluation mode, an affine map; tensors `<name>.weight` and so on."""

    op: Literal["batch_norm"]
    name: str
    eps: float = 1e-5


class Standardize(Table):
    """(x − mean) / (sqrt(var) + eps), tensors by name; without `mean` only the scale."""

    op: Literal["standardize"]
    mean: str | None = None
    var: str
    eps: float = 1e-8


class Scale(Table):
    """Times a number, or a tensor by name."""

    op: Literal["scale"]
    factor: float | str


class Mean(Table):
    """The mean of each of `groups` equal parts."""

    op: Literal["mean"]
    groups: int = Field(gt=0)


class Take(Table):
    """Some of the numbers, by place."""

    op: Literal["take"]
    places: list[int] = Field(min_length=1)


class Expected(Table):
    """The expected value of each run of neighbours, as probabilities of evenly spaced values."""

    op: Literal["expected"]
    low: float
    high: float
    bins: int = Field(gt=1)


class Deviation(Table):
    """The standard deviation of what `expected` gives the expected value of."""

    op: Literal["deviation"]
    low: float
    high: float
    bins: int = Field(gt=1)


class Normalize(Table):
    """Divide by the Euclidean norm."""

    op: Literal["normalize"]


class Norm(Table):
    """The Euclidean norm: one number."""

    op: Literal["norm"]


class Vocabulary(Table):
    """The logits of a few tokens: their rows of the output embedding, tied or not."""

    op: Literal["vocabulary"]
    tokens: list[Token] = Field(min_length=1)


Layer = Annotated[
    Linear
    | LinearEach
    | Activation
    | Softmax
    | BatchNorm
    | Standardize
    | Scale
    | Mean
    | Take
    | Expected
    | Deviation
    | Normalize
    | Norm
    | Vocabulary,
    Field(discriminator="op"),
]


class Head(Table):
    """Layers from the hidden state at a place to numbers, in float32."""

    layers: list[Layer] = Field(min_length=1)
    file: Beside | None = Field(
        default=None,
        description="A file of its own beside the trunk's: .safetensors, or .pt/.bin, which is "
        "read with weights_only=True; a .bin may lie there as .safetensors, and the other way. "
        "Default: the trunk's files.",
    )
    read: Read | None = Field(default=None, description="Where it reads; default: [read].")
    joined: int = Field(
        default=1, gt=0, description="So many places of `which = 'each'` are read side by side."
    )


# --- score ----------------------------------------------------------------------------------


class Score(Table):
    """From the numbers that the head `reward` gives at a place to the score.

    `index`: one of them. `weighted`: their sum, each times its weight. `gated`: their sum, each
    times the head `gate`'s number. `softmax`: the probability of one among all of them. `sum`: the
    sum over all places read (log-probabilities).
    """

    rule: Literal["index", "weighted", "gated", "softmax", "sum"] = "index"
    outputs: list[str] = Field(default=[], description="Names of the numbers: the attributes.")
    index: int = Field(default=0, ge=0)
    weights: dict[str, float] = Field(default={}, description="Of 'weighted', by output.")
    bias: float = 0.0
    mean: float = Field(default=0.0, description="Subtracted from the score.")
    std: float = Field(default=1.0, gt=0, description="The score is divided by it then.")
    transform: Literal["identity", "sigmoid", "negate"] = "identity"

    @model_validator(mode="after")
    def _weights_are_outputs(self) -> Self:
        if (self.rule == "weighted") != bool(self.weights):
            raise ValueError("'weights' goes with rule = 'weighted'")
        if unknown := self.weights.keys() - set(self.outputs):
            raise ValueError(f"'weights' names {sorted(unknown)}, which 'outputs' doesn't")
        if self.bias and self.rule != "weighted":
            raise ValueError("'bias' goes with rule = 'weighted'")
        if self.index and self.rule not in ("index", "softmax"):
            raise ValueError("'index' goes with rule = 'index' or 'softmax'")
        return self


class Preference(Table):
    """How two responses compare, for models that give no score to one.

    `pair`: the model reads both; the score rule gives P(a ≻ b), or with `logit` its logit.
    `bilinear`: each response has an embedding v and the model's own form R, block skew-symmetric
    with blocks [[0, 1], [-1, 0]]: P(a ≻ b) = σ(gate · v_a R v_b / temperature), with the head
    `gate`'s numbers, one a block, if there is such a head
    (General Preference Model, arXiv 2410.02197).
    """

    form: Literal["pair", "bilinear"]
    logit: bool = False
    swap: bool = Field(default=True, description="Of 'pair': both orders are averaged.")
    temperature: float = Field(
        default=1.0, gt=0, description="Of 'bilinear', and of 'pair' with `logit`."
    )

    @model_validator(mode="after")
    def _is_of_its_form(self) -> Self:
        if self.form == "bilinear" and (idle := self.says("logit", "swap")):
            raise ValueError(f"'{idle}' goes with form = 'pair'")
        if self.form == "pair" and not self.logit and self.says("temperature"):
            raise ValueError("'temperature' divides a logit: it goes with logit = true")
        return self


class Policy(Table):
    """A policy whose score is β (log π(response) − log π_ref(response)) (DPO, arXiv 2305.18290).

    The checkpoint is the policy; `reference` is a folder beside the card, or None for none.
    """

    reference: Beside | None = None
    beta: float = Field(default=0.1, gt=0)
    average: bool = Field(default=False, description="The mean over tokens instead of the sum.")
