"""From an item to the token ids the model reads: rendered once, one BOS, cut only where allowed.

The chat template is the checkpoint's own unless a card says otherwise. Its text is tokenized
without special tokens, and the tokenizer's BOS is put in front if the template didn't; a doubled
BOS at the start is made one. No torch here: the front renders while the device works.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.cards import validation
from assay.cards.card import Card
from assay.engine import probes, roles, spelling, truncation
from assay.engine.chat import ChatTemplate
from assay.engine.marks import Marks, Reader
from assay.engine.messages import Inputs
from assay.engine.positions import stated_tokens, steady_tokens
from assay.engine.spelling import (
    Contest,
    Conversation,
    Ids,
    Message,
    Parts,
    Solution,
    Source,
    Specials,
    Spelt,
    TemplateInputs,
    Text,
)
from assay.engine.truncation import Cutting, Sides, Texts
from assay.errors import (
    AssayError,
    CheckpointError,
    EmptyItem,
    InvalidField,
    ItemTooLong,
    TemplateRefused,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from assay.cards.mechanism import Token
    from assay.engine.truncation import Cut, Spans, Truncation

__all__ = [
    "Contest",
    "Conversation",
    "Ids",
    "Rendered",
    "Solution",
    "Source",
    "Specials",
    "Template",
    "TemplateInputs",
    "Text",
]
# What is longer isn't tokenized only to be cut: that takes seconds, and memory a hundredfold.
_MOST_CHARACTERS = 1 << 20
_MOST_PER_TOKEN = 16
_UNLIMITED = 1 << 20  # transformers writes 1e30 where a tokenizer states no limit
_VOCABULARIES = ("tokenizer.json", "*.model", "vocab*")  # transformers makes do with none
_CUT_RESPONSES = ', or send "truncation": "response_end"'
_USUAL = (roles.USER, roles.ASSISTANT)
_MOST_SHAPES = 256  # of conversations, by their roles, that are remembered
_SAMPLES = ["Seven — is 7 a prime?\n\n", "  <s>x</s>\u00a0[CLS] e\u0301 🌞", ""]


@dataclass(frozen=True, slots=True)
class Rendered:
    """What the model reads of one item: `ids` is (tokens,) int32; no `marks`, read at its end.

    `text` is what these ids were tokenized from, where that is one text; `cut` what was cut of the
    item first. Where text came templated, `ends_as_expected` says whether it ends as the template
    ends a conversation: generation that was cut off doesn't.

    `segments` are its segment ids, (tokens,) int32; None: all 0.
    """

    ids: np.ndarray
    text: str | None
    cut: Cut | None = None
    marks: Marks | None = None
    segments: np.ndarray | None = None
    ends_as_expected: bool = True

    @property
    def truncated(self) -> bool:
        """Whether anything was cut."""
        return self.cut is not None


class Template:
    """One checkpoint's tokenizer and chat template. Not thread-safe: one thread renders."""

    def __init__(
        self,
        folder: Path,
        card: Card | None = None,
        *,
        config_folder: Path | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """Load the tokenizer; config.json is beside it, or in `config_folder`.

        Raises:
            CheckpointError: There is none, it can't be read, or lacks a token of the card.
        """
        from transformers import AutoTokenizer, logging  # noqa: PLC0415  slow to import

        logging.set_verbosity_error()

        config = _config(config_folder or folder)
        if not any(file for pattern in _VOCABULARIES for file in folder.glob(pattern)):
            raise CheckpointError(
                f"{folder} has no tokenizer (tokenizer.json, *.model or vocab*); copy it from the "
                "model it was trained from"
            )
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
        except Exception as error:
            raise CheckpointError(
                f"{folder} has no tokenizer that can be read ({type(error).__name__})"
            ) from error
        self._card = card or Card()
        self._spec = self._card.template
        self._chat_template = ChatTemplate(self._tokenizer, self._spec)
        self.inputs = Inputs(  # as config.json says, until the model is loaded
            vocabulary=int(config.get("vocab_size") or len(self._tokenizer)),
            segments=int(config.get("type_vocab_size") or 0),
            padding=config.get("pad_token_id") if self._is_read_by_its_class else None,
        )
        self._is_held = False
        self._pools_all = config.get("classifier_pooling") == "mean"
        self._check_tokens()
        self._reader = Reader(self._card, self.token_id)
        self._appended = [self.token_id(token) for token in self._spec.append]
        self._losses: dict[tuple[str, ...], list[int] | None] = {}
        self.max_tokens = max_tokens or self._declared_limit(config)

    def hold_to(self, loaded: Inputs) -> None:
        """Take no other ids than a loaded model does: the fewest, of several."""
        known = self.inputs.vocabulary
        fewest = min(known, loaded.vocabulary) if self._is_held else loaded.vocabulary
        self.inputs, self._is_held = replace(loaded, vocabulary=fewest), True

    def beyond(self) -> list[str]:
        """Return the tokens that text can name and the model has no embedding for, by id."""
        found = {i: token for token, i in self._tokenizer.get_vocab().items()}
        return [found[i] for i in sorted(found) if i >= self.inputs.vocabulary]

    @cached_property
    def bos(self) -> int | None:
        """The BOS that each sequence begins with, once; None where the text alone decides.

        By default the one that the tokenizer puts in front of plain text. A tokenizer may define a
        BOS it never adds (GPT-NeoX).
        """
        if self._spec.bos == "one":
            one: int | None = self._tokenizer.bos_token_id
            return one
        if self._spec.bos in ("none", "keep"):
            return None
        before, _ = self._frame
        return before[0] if before and before[0] == self._tokenizer.bos_token_id else None

    @cached_property
    def _frame(self) -> tuple[list[int], list[int]]:
        """The special ids that the tokenizer itself puts before and after plain text."""
        bare = list(self._tokenizer("x", add_special_tokens=False)["input_ids"])
        full = list(self._tokenizer("x")["input_ids"])
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return full[:start], full[start + len(bare) :]
        return [], []

    @cached_property
    def _tells_apart(self) -> bool:
        """Whether the tokenizer has other ids for the marker than for a sample's own words."""
        marker, *words = self._encode([probes.MARKER, *probes.WORDS])
        return marker not in words

    @cached_property
    def _longest_token(self) -> int:
        """The characters that one token can stand for at most."""
        return max(map(len, self._tokenizer.get_vocab()))

    @cached_property
    def _core(self) -> Any | None:
        """The tokenizer's Rust core, where it gives by itself the ids that transformers gives.

        It does without an offset for each token and a dictionary for each text. None where there
        is no such core, or where transformers does more than call it.
        """
        core = getattr(self._tokenizer, "backend_tokenizer", None)
        if core is None:
            return None
        # This call also leaves the core without padding and truncation.
        expected = self._tokenizer(_SAMPLES, add_special_tokens=False)["input_ids"]
        encoded = core.encode_batch_fast(_SAMPLES, add_special_tokens=False)
        return core if [one.ids for one in encoded] == expected else None

    @property
    def _is_read_by_its_class(self) -> bool:
        """Whether transformers' own class says where a decoder is read, and no card does."""
        card = self._card
        has_own_head = not card.heads and card.policy is None and card.read is None
        return has_own_head and not self._is_encoder

    @cached_property
    def _is_encoder(self) -> bool:
        """Whether sequences stand between a classification and a separator token."""
        before, after = self._frame
        tokenizer = self._tokenizer
        return bool(
            before
            and after
            and before[0] == tokenizer.cls_token_id
            and after[-1] == tokenizer.sep_token_id
        )

    @cached_property
    def roles(self) -> dict[str, str]:
        """What the chat template calls those of our roles that it calls otherwise.

        By the card, else as the template's own words are plain, where ours lose a turn or are
        refused and these don't.
        """
        if self._spec.roles is not None:
            named = self._spec.roles.model_dump()
            return {ours: theirs for ours, theirs in named.items() if ours != theirs}
        if self._jinja is None or self._lost(_USUAL, {}) == []:
            return {}
        guessed = roles.guess(roles.looked_for(self._jinja))
        return guessed if guessed and self._lost(_USUAL, guessed) == [] else {}

    @cached_property
    def _jinja(self) -> str | None:
        """The chat template that conversations go through; None where they go through none."""
        if self._spec.turns is not None or not (self._spec.chat or self._tokenizer.chat_template):
            return None
        return self._chat_template.source()

    def check(self, source: Source) -> None:
        """Check that each text of a sample leaves a trace in its ids.

        What the template refuses isn't checked.

        Raises:
            CheckpointError: One leaves none: whatever it says, the score would be the same.
        """
        spelt = self._spell(source)
        if isinstance(spelt, Spelt) and isinstance(spelt.item, Conversation):
            turns = [message["role"] for message in spelt.item.messages]
            if lost := self._lost_of(turns):
                raise self._swallowed([turns[place] for place in lost])
        parts, variants = zip(*probes.variants(source), strict=True)
        written = self._write([spelt, *map(self._spell, variants)], "longest_first")
        whole, *changed = [self._traced(one) for one in written]
        lost_parts = [part for part, one in zip(parts, changed, strict=True) if one == whole]
        if lost_parts and self._tells_apart and not isinstance(whole, AssayError):
            raise self._swallowed(lost_parts)

    @cached_property
    def truncation(self) -> Truncation:
        """What may be cut unless a request says: as the card has it.

        A pair encoder is cut as its tokenizer cuts.
        """
        return self._card.limits.truncation or (
            "longest_first" if self._takes_pairs else "prompt_start"
        )

    @cached_property
    def _takes_pairs(self) -> bool:
        """Whether prompt and response are the two segments of an encoder."""
        has_template = self._spec.turns or self._spec.chat or self._tokenizer.chat_template
        return self._is_encoder and not has_template

    @cached_property
    def _ending(self) -> int | None:
        """The token that a conversation ends with whatever its response is; None if none is."""
        if self._takes_pairs or self._card.steps or self._card.template.pair or self._reads_marks:
            return None
        asked = {"role": roles.USER, "content": probes.WORDS[0]}
        answers = [{"role": roles.ASSISTANT, "content": one} for one in probes.ANSWERS]
        found = self.render_all([Conversation((asked, answer)) for answer in answers])
        ends = {int(one.ids[-1]) if isinstance(one, Rendered) else None for one in found}
        return ends.pop() if len(ends) == 1 else None

    @property
    def _reads_marks(self) -> bool:
        read = self._card.read
        return self._card.policy is not None or (read is not None and read.at != "last")

    def render_all(
        self, sources: Sequence[Source], cutting: Truncation | Cutting | None = None
    ) -> list[Rendered | AssayError]:
        """Render each item; an item that can't be rendered gives its error in its place.

        Errors are TemplateRefused (the chat template rejects the conversation, or there is none),
        EmptyItem (no tokens), InvalidField (not Unicode, or an id beyond the embedding) and
        ItemTooLong (what must be kept exceeds `max_tokens`).
        """
        if not isinstance(cutting, Cutting):
            cutting = Cutting(cutting)
        rule = cutting.rule or self.truncation
        bounded = [self._bounded(source, cutting, rule) for source in sources]
        items = [self._spell(source) for source in bounded]
        written = self._write(items, rule)
        encoded = iter(self._encode([text for text in written if isinstance(text, str)]))
        rendered: list[Rendered | AssayError] = []
        for source, whole, item, text in zip(bounded, sources, items, written, strict=True):
            ids = next(encoded) if isinstance(text, str) else None
            try:
                one = self._render(source, item, text, ids, replace(cutting, rule=rule))
                self._check_ids(one.ids, are_verbatim=isinstance(text, Ids))
            except AssayError as error:
                rendered.append(error)
            else:
                if source is not whole:
                    one = replace(one, cut="both" if one.cut in ("prompt", "both") else "response")
                rendered.append(one)
        return rendered

    def token_id(self, token: Token) -> int:
        """Return the id of a token of the card.

        Raises:
            CheckpointError: The tokenizer hasn't that token, or the model has no row for it.
        """
        found = token if isinstance(token, int) else self._look_up(token)
        if not 0 <= found < self.inputs.vocabulary:
            raise CheckpointError(
                f"the card names the token {token!r}, id {found}, and the model's embedding has "
                f"{self.inputs.vocabulary} rows: tokenizer and weights aren't of one model"
            )
        return found

    def _look_up(self, token: str) -> int:
        vocabulary = self._tokenizer.get_vocab()
        if token in vocabulary:
            return int(vocabulary[token])
        ids = self._tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == self._tokenizer.unk_token_id:
            spelt = "doesn't know" if len(ids) == 1 else f"spells with {len(ids)}"
            raise CheckpointError(
                f"the card names the token {token!r}, which this tokenizer {spelt}"
            )
        return int(ids[0])

    @property
    def ordinary_tokens(self) -> int:
        """How many ids the tokenizer's own vocabulary has, without tokens that were added to it."""
        added = self._tokenizer.added_tokens_decoder
        return 1 + max(
            (i for i in self._tokenizer.get_vocab().values() if i not in added), default=-1
        )

    def _check_tokens(self) -> None:
        """Refuse a token of the card that the tokenizer hasn't, with its field."""
        for path, token in validation.tokens(self._card):
            try:
                self.token_id(token)
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error.message}") from error

    def without_padding(self, text: str) -> str:
        """Return a text without the padding tokens that stand before and after it.

        Of a padding token that is EOS, too, one is left behind it.
        """
        pad, eos = self._tokenizer.pad_token, self._tokenizer.eos_token
        if not pad:
            return text
        begin, end = 0, len(text)
        while text.startswith(pad, begin, end):
            begin += len(pad)
        while text.endswith(pad, begin, end):
            end -= len(pad)
        kept = text[begin:end]
        return kept + pad if pad == eos and end < len(text) else kept

    def ids_without_padding(self, ids: list[int]) -> list[int]:
        """Return ids without the padding that stands before and after them.

        Of EOS, which clients pad with, too, one is left behind them.
        """
        pad, eos = self._tokenizer.pad_token_id, self._tokenizer.eos_token_id
        begin, end = 0, len(ids)
        is_its_own = pad is not None and pad not in (eos, self._tokenizer.bos_token_id)
        while is_its_own and begin < end and ids[begin] == pad:
            begin += 1
        while is_its_own and begin < end and ids[end - 1] == pad:
            end -= 1
        while end - begin > 1 and ids[end - 1] == ids[end - 2] == eos:
            end -= 1
        return ids[begin:end]

    def in_ids(self, card: Card) -> Card:
        """Return a card whose heads name tokens by their ids."""
        heads = {
            name: head.model_copy(
                update={
                    "layers": [
                        layer.model_copy(update={"tokens": [*map(self.token_id, layer.tokens)]})
                        if layer.op == "vocabulary"
                        else layer
                        for layer in head.layers
                    ]
                }
            )
            for name, head in card.heads.items()
        }
        return card.model_copy(update={"heads": heads})

    @property
    def note(self) -> str | None:
        """What an operator should know of the chat template, in a sentence."""
        self._chat_template.names = self.roles
        return self._chat_template.note

    def places(self, rendered: Rendered) -> list[int]:
        """Return every place where an item is read; none where that is the mean over all."""
        if rendered.marks is not None:
            found: list[int] = rendered.marks.positions.tolist()
            return found
        return {"first": [0], "mean": []}.get(self._reads, [len(rendered.ids) - 1])

    def read_token(self, rendered: Rendered) -> tuple[int, str]:
        """Return where an item is read last, and the token there as the vocabulary spells it."""
        place = (self.places(rendered) or [len(rendered.ids) - 1])[-1]
        return place, self.tokens([int(rendered.ids[place])])[0]

    @cached_property
    def _reads(self) -> str:
        """Where items without marks are read, by the card, else by transformers' own class."""
        card = self._card
        if card.read is not None:
            return card.read.at
        if card.heads or card.policy is not None or not self._is_encoder:
            return "last"
        return "mean" if self._pools_all else "first"

    def _traced(self, written: object) -> object:
        """Return what tells whether a text made a difference: its ids, if it is one text."""
        return next(self._encode([written]), None) if isinstance(written, str) else written

    def _lost_of(self, turns: Sequence[str]) -> list[int]:
        """Return which turns of a conversation of these roles the template leaves out."""
        return self._known_lost(tuple(turns)) or []

    def _known_lost(self, turns: tuple[str, ...]) -> list[int] | None:
        if turns not in self._losses:
            if len(self._losses) >= _MOST_SHAPES:
                self._losses.clear()
            self._losses[turns] = self._lost(turns, self.roles)
        return self._losses[turns]

    def _lost(self, turns: Sequence[str], names: Mapping[str, str]) -> list[int] | None:
        """Return which turns don't come through to the text; None where it refuses them."""
        talk = probes.marked(turns)
        try:
            if self._spec.turns is not None:
                text = spelling.write(talk, self._spec.turns)
            elif self._jinja is not None:
                marked = Conversation(tuple(talk))
                (text,) = self._chat([marked], generation_prompt=False, names=names)
            else:
                return None
        except Exception:  # noqa: BLE001  a template is code that may raise anything
            return None
        return probes.missing(text, len(turns))

    def _swallowed(self, parts: Sequence[str]) -> CheckpointError:
        """Say which texts leave no trace, and what to write into a card."""
        left_out = f"leaves out what is said by {roles.listed(dict.fromkeys(parts))}"
        if self._jinja is None:
            return CheckpointError(
                f"the card's template {left_out}; put the placeholder for it into the card's text"
            )
        known = roles.looked_for(self._jinja)
        return CheckpointError(
            f"the chat template {left_out}, so that it would never change a score; the template "
            f"looks for the roles {roles.listed(known)}: say in a card.toml whose is whose, as "
            '[template.roles] with user = "…" and assistant = "…"'
        )

    def _in_our_names(self, source: Source) -> Source:
        """Return an item whose roles are ours where they are the template's."""
        if isinstance(source, Ids | Text) or not self.roles:
            return source
        ours = {theirs: name for name, theirs in self.roles.items()}
        turns = tuple(
            {**turn, "role": ours.get(turn["role"], turn["role"])} for turn in source.messages
        )
        return replace(source, messages=turns)

    def _misplaced(self, source: Source) -> AssayError | None:
        """Refuse a conversation whose last turn isn't the assistant's, under whatever name."""
        if not isinstance(source, Conversation) or source.messages[-1]["role"] == roles.ASSISTANT:
            return None
        if self._known_lost(tuple(turn["role"] for turn in source.messages)) is None:
            return None  # the template says it better
        theirs = self.roles.get(roles.ASSISTANT)
        return InvalidField(
            "'messages' must end with the assistant turn to score"
            + (f", which the model's template calls '{theirs}'" if theirs else ""),
            param="messages",
        )

    def _left_out(self, source: Conversation) -> TemplateRefused | None:
        """Refuse a conversation of which the chat template leaves out a turn."""
        turns = [message["role"] for message in source.messages]
        if not (lost := self._lost_of(turns)):
            return None
        return TemplateRefused(
            f"the model's chat template leaves out turn {lost[0] + 1} of {len(turns)}, of the role "
            f"'{shown(turns[lost[0]])}', and the score would not be of it; send the conversation "
            "without that turn"
        )

    @property
    def _most_characters(self) -> int:
        return max(_MOST_CHARACTERS, _MOST_PER_TOKEN * self.max_tokens)

    def _bounded(self, source: Source, cutting: Cutting, rule: Truncation) -> Source:
        """Return an item whose response is cut to what the caller wants of it.

        Where responses may be cut, one of a million characters is first cut to what could matter.
        """
        if not isinstance(source, Conversation) or self._card.steps is not None:
            return source
        last = source.messages[-1]
        text = spelling.said(last)
        if rule != "prompt_start" and spelling.characters(source) > self._most_characters:
            most = self.max_tokens * self._longest_token
            text = text[-most:] if cutting.side == "start" else text[:most]
        if cutting.response_tokens is not None and len(text) > cutting.response_tokens:
            text = truncation.kept(text, self._spans(text), cutting.response_tokens, "end")
        if len(text) == len(spelling.said(last)):
            return source
        return replace(source, messages=(*source.messages[:-1], truncation.saying(last, text)))

    def _spans(self, text: str) -> Spans:
        """Return where each token of a text stands in it."""
        if not self._tokenizer.is_fast:
            return truncation.words(text)
        found = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        spans: Spans = found["offset_mapping"]
        return spans

    def _spell(self, source: Source) -> Spelt | AssayError:
        most = self._most_characters
        if (characters := spelling.characters(source)) > most:
            return ItemTooLong(
                f"the item has {characters} characters, far more than {self.max_tokens} tokens can "
                f"hold; cut the prompt to {most}"
            )
        source = self._in_our_names(source)
        try:
            self._check_carried(source)
            return self._misplaced(source) or spelling.spell(source, self._spec, self._card.steps)
        except AssayError as error:
            return error

    def _check_carried(self, source: Source) -> None:
        """Refuse what a conversation has beside role and content where it wouldn't be rendered."""
        if isinstance(source, (Text, Ids)):
            return
        fields = [
            f"messages[{place}].{name}"
            for place, message in enumerate(source.messages)
            for name in spelling.carried(message)
        ]
        inputs = source.inputs.names
        if not fields and not inputs:
            return
        pair, steps = self._spec.pair, self._card.steps
        is_chat = self._spec.turns is None and self._chat_template.exists
        if pair is not None:
            is_chat = is_chat and pair.through == "chat"
        elif steps is not None:
            is_chat = is_chat and steps.form != "separate"
        if not is_chat or (pair is not None and fields):
            raise spelling.unspelt((fields or inputs)[0])
        self._chat_template.names = self.roles
        self._chat_template.check(Conversation(source.messages, source.inputs))

    def _render(
        self,
        source: Source,
        item: Spelt | AssayError,
        text: str | _Pair | Parts | Ids | AssayError,
        ids: list[int] | None,
        cutting: Cutting,
    ) -> Rendered:
        """Return what the model reads of one item that was spelt, written and encoded."""
        if isinstance(text, AssayError):
            raise text
        if isinstance(item, AssayError):
            raise item
        if item.steps is not None:  # each of them has a score: none is cut away
            cutting = Cutting("prompt_start", cutting.side)
        match text:
            case str():
                rendered = self._finish(ids, item, text)
            case _Pair():
                rendered = self._finish_pair(text, cutting)
            case Parts():
                return self._finish_parts(text)
            case Ids():
                rendered = self._verbatim(text)
        if len(rendered.ids) > self.max_tokens:
            rendered, item = self._shortened(source, item, rendered, cutting)
        if isinstance(source, Text | Ids) and self._ending is not None:
            is_expected = int(rendered.ids[-1]) == self._ending
            rendered = replace(rendered, ends_as_expected=is_expected)
        return self._marked(rendered, item)

    def _shortened(
        self, source: Source, item: Spelt, whole: Rendered, cutting: Cutting
    ) -> tuple[Rendered, Spelt]:
        """Return what is rendered of an item whose text was cut so that it fits, and its spelling.

        Raises:
            ItemTooLong: What may be cut isn't enough.
        """
        if not item.is_cuttable or isinstance(source, Ids | Contest):
            raise ItemTooLong(
                f"the item has more than {self.max_tokens} tokens, and nothing of it can be cut"
            )
        self._refuse_rewritten(item, whole, cutting)
        rule = cutting.rule or self.truncation
        if self._is_forced(item, whole, replace(cutting, rule=rule)):
            return self._ended(source, whole), item
        sides, tail = self._sides(source, cutting), ""
        if isinstance(source, Text):
            rule = "prompt_start"
            if sides.prompt == "end":
                source, tail = self._without_tail(source)
        texts = Texts.of(source, self._spans)
        over = len(whole.ids) - self.max_tokens
        found: dict[int, tuple[Rendered, Spelt]] = {}

        def excess(removed: int) -> int:
            left = truncation.plan(rule, texts.prompt, len(texts.answer), removed)
            found[removed] = self._again(texts.shortened(*left, sides), tail)
            return len(found[removed][0].ids) - self.max_tokens

        most = _most_removed(rule, texts)
        removed = truncation.fewest(over, most, excess) if most else None
        if removed is None and rule == "response_end":
            return self._shortened(source, item, whole, replace(cutting, rule="longest_first"))
        if removed is None:
            raise self._too_long(item, whole, rule)
        rendered, spelt = found[removed]
        left = truncation.plan(rule, texts.prompt, len(texts.answer), removed)
        cut = _cut_of(source, left[0] < texts.prompt, left[1] < len(texts.answer))
        return replace(rendered, cut=cut), spelt

    def _is_forced(self, item: Spelt, whole: Rendered, cutting: Cutting) -> bool:
        """Whether an item is cut as OpenRLHF does: at its end, which leaves the whole prompt."""
        if self._spec.eos != "force" or cutting.rule != "response_end" or cutting.side is not None:
            return False
        if not isinstance(item.item, Conversation):
            return True
        response, _ = self._response_size(item.item, whole)
        return len(whole.ids) - response < self.max_tokens - 1

    def _ended(self, source: Source, whole: Rendered) -> Rendered:
        """Return an item's first tokens with EOS in place of the last that fits."""
        ids = whole.ids[: self.max_tokens].copy()
        ids[-1] = self._tokenizer.eos_token_id
        cut = _cut_of(source, prompt=False, response=True)
        return replace(whole, ids=ids, text=None, cut=cut)  # no text has just these ids

    def _again(self, source: Source, tail: str) -> tuple[Rendered, Spelt]:
        """Render an item that was cut, whatever its length."""
        if isinstance(source, Text):
            source = replace(source, text=source.text + tail)
        spelt = self._spell(source)
        (text,) = self._write([spelt], "longest_first")
        if isinstance(spelt, AssayError):
            raise spelt
        if isinstance(text, AssayError):
            raise text
        if not isinstance(text, str):
            raise TypeError(text)
        return self._finish(next(self._encode([text])), spelt, text), spelt

    def _sides(self, source: Source, cutting: Cutting) -> Sides:
        """Return at which end texts are cut: where nothing else is said, never the read one."""
        if cutting.side is not None:
            return Sides(cutting.side, cutting.side)
        own: truncation.Side = "start" if self._tokenizer.truncation_side == "left" else "end"
        if self._is_encoder and isinstance(source, Text) and cutting.rule == "longest_first":
            return Sides(own, own)
        return Sides()

    def _without_tail(self, source: Text) -> tuple[Text, str]:
        """Return a text and the special tokens at its end, which stay where its end is cut."""
        spans = self._spans(source.text)
        ids = next(self._encode([source.text]), None) or []
        special = {*self._tokenizer.all_special_ids, *self._tokenizer.added_tokens_decoder}
        start = len(source.text)
        for (begin, end), token in zip(reversed(spans), reversed(ids), strict=False):
            if token not in special and source.text[begin:end].strip():
                break
            start = begin
        return replace(source, text=source.text[:start]), source.text[start:]

    def _refuse_rewritten(self, item: Spelt, whole: Rendered, cutting: Cutting) -> None:
        """Refuse a template that rewrites responses, unless the caller leaves open what is cut."""
        if not isinstance(item.item, Conversation) or cutting.rule == "longest_first":
            return
        if spelling.said(item.item.messages[-1]).strip() not in (whole.text or ""):
            raise ItemTooLong(
                f"the item has {len(whole.ids)} tokens, the model takes {self.max_tokens}; its "
                "chat template rewrites the response, so that nothing can be cut"
            )

    def _too_long(self, item: Spelt, whole: Rendered, rule: Truncation) -> ItemTooLong:
        """Say of what there is too much where all that may be cut isn't enough."""
        if not isinstance(item.item, Conversation) or rule != "prompt_start":
            return ItemTooLong(
                f"what stands around the item's texts has more than the {self.max_tokens} tokens "
                "that the model takes"
            )
        if item.steps is not None:
            return ItemTooLong(
                f"the steps alone have more than the {self.max_tokens} tokens that the model "
                "takes; send fewer of them"
            )
        needed, room = self._response_size(item.item, whole)
        if needed > room:
            return self._response_too_long(needed, room)
        return ItemTooLong(
            f"the response and what the template puts around it have more than the "
            f"{self.max_tokens} tokens that the model takes; shorten it",
            advice=_CUT_RESPONSES,
        )

    def _response_too_long(self, needed: int, room: int) -> ItemTooLong:
        return ItemTooLong(
            f"the response alone has {needed} tokens, the model takes {room}; shorten it",
            advice=_CUT_RESPONSES,
        )

    def _response_size(self, talk: Conversation, whole: Rendered) -> tuple[int, int]:
        """Return the tokens of a response with what ends it, and how many there is room for."""
        text = whole.text or ""
        start = text.rfind(spelling.said(talk.messages[-1]).strip())
        needed = sum(end > start for _, end in self._spans(text)) + len(self._appended)
        front = len(self._frame[0]) if self._is_encoder else int(self.bos is not None)
        return needed, self.max_tokens - front

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Return the vocabulary's own strings for ids."""
        return [str(token) for token in self._tokenizer.convert_ids_to_tokens(list(ids))]

    def _write(
        self, items: Sequence[Spelt | AssayError], rule: Truncation
    ) -> list[str | _Pair | Parts | Ids | AssayError]:
        """Return each item's text to tokenize, or what needs none."""
        written = [
            one if isinstance(one, AssayError) else self._to_apply(one.item, rule) for one in items
        ]
        talks = [one for one in written if isinstance(one, Conversation)]
        applied = iter(self._apply(talks))
        return [next(applied) if isinstance(one, Conversation) else one for one in written]

    def _to_apply(
        self, source: Conversation | Parts | Text | Ids, rule: Truncation
    ) -> Conversation | Parts | str | Ids | AssayError:
        """Return a conversation that is to go through the chat template, or what isn't."""
        if isinstance(source, Text):
            return source.text if self._spec.eos == "keep" else self._with_eos(source.text)
        if isinstance(source, Conversation) and (refusal := self._left_out(source)):
            return refusal
        if isinstance(source, Conversation) and rule == "prompt_start":
            # Known before a million characters hold up everybody's tokenization.
            characters = len(spelling.said(source.messages[-1]).strip())
            if characters > self.max_tokens * self._longest_token:
                return ItemTooLong(
                    f"the response alone has {characters} characters, more than {self.max_tokens} "
                    "tokens can hold; shorten it",
                    advice=_CUT_RESPONSES,
                )
        return source

    def _apply(self, talks: Sequence[Conversation]) -> Sequence[str | _Pair | AssayError]:
        """Put conversations through the chat template, all in one call unless one is refused."""
        if not talks:
            return []
        try:
            if self._spec.turns is not None:
                texts = [spelling.write(talk.messages, self._spec.turns) for talk in talks]
            elif not self._chat_template.exists:
                return [self._pair(talk.messages) for talk in talks]
            else:
                texts = self._applied(talks)
        except Exception as error:  # noqa: BLE001  a template is code that may raise anything
            if len(talks) > 1:
                return [one for talk in talks for one in self._apply([talk])]
            return [error if isinstance(error, AssayError) else self._chat_template.refusal(error)]
        return texts if self._spec.eos == "keep" else [*map(self._with_eos, texts)]

    def _chat(
        self,
        talks: Sequence[Conversation],
        *,
        generation_prompt: bool,
        names: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Put conversations through the card's or the tokenizer's chat template, in its names."""
        self._chat_template.names = self.roles if names is None else names
        return self._chat_template.apply(talks, generation_prompt=generation_prompt)

    def _applied(self, talks: Sequence[Conversation]) -> list[str]:
        texts = self._chat(talks, generation_prompt=self._spec.generation_prompt)
        for talk, text in zip(talks, texts, strict=True):
            self._chat_template.check_size(talk, text)
        return texts

    def _with_eos(self, text: str) -> str:
        """Return a text that ends with EOS, as OpenRLHF's reward dataset writes it."""
        text = text.rstrip("\n")
        eos = self._tokenizer.eos_token
        return text if text.endswith(eos) else f"{text} {eos}"

    def _pair(self, messages: Sequence[Message]) -> _Pair:
        """Return prompt and response for an encoder, which takes them as two segments."""
        if not self._is_encoder:
            raise TemplateRefused(
                "the model has no chat template",
                advice="; send 'text' that already has its format, or 'input_ids'",
            )
        if [message["role"] for message in messages] != ["user", "assistant"]:
            raise TemplateRefused(
                "the model has no chat template; send one prompt with one response"
            )
        return _Pair(*map(spelling.said, messages))

    def _encode(self, texts: list[str]) -> Iterator[list[int] | None]:
        """Yield the ids of each text, no special tokens added; None where it isn't Unicode."""
        if not texts:
            return
        try:
            yield from self._ids(texts)
        except (UnicodeEncodeError, TypeError):
            if len(texts) == 1:
                yield None
                return
            for text in texts:
                yield from self._encode([text])

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if self._core is not None:
            encoded = self._core.encode_batch_fast(texts, add_special_tokens=False)
            return [one.ids for one in encoded]
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        return ids

    def _finish(self, ids: list[int] | None, item: Spelt, text: str) -> Rendered:
        """Give the ids their special tokens, by default exactly one BOS.

        An encoder's stand in its frame. A text may bring what the card appends.
        """
        specials = item.item.specials if isinstance(item.item, Text | Conversation) else "card"
        ids = self._checked(ids)
        is_whole = isinstance(item.item, Text) and ids[-len(self._appended) :] == self._appended
        front, ids, end = self._framed(ids if is_whole else [*ids, *self._appended], specials)
        ids = [*front, *ids, *end]
        if not ids:
            raise EmptyItem("the item has no tokens; send some text")
        return Rendered(np.asarray(ids, dtype=np.int32), text)

    def _framed(self, ids: list[int], specials: Specials) -> tuple[list[int], list[int], list[int]]:
        """Return what is put in front, the ids without what they have of it, and what ends them."""
        before, after = self._frame
        if specials == "none" and self._spec.bos == "tokenizer":
            return [], ids, []
        if self._is_encoder:
            ids = _stripped(ids, before[0])
            return before, ids[: -1 if ids[-1:] == after else None], after
        adds_end = specials == "tokenizer" and self._spec.eos == "keep" and not self._appended
        end = after if adds_end and ids[len(ids) - len(after) :] != after else []
        if self.bos is not None:
            return [self.bos], _stripped(ids, self.bos), end
        if self._spec.bos == "none":
            return [], _stripped(ids, self._tokenizer.bos_token_id), end
        if specials == "tokenizer" and self._spec.bos == "tokenizer" and before:
            return before, ids[len(before) if ids[: len(before)] == before else 0 :], end
        return [], ids, end

    def _finish_pair(self, pair: _Pair, cutting: Cutting) -> Rendered:
        """Encode prompt and response as the tokenizer's own two segments, cut as it cuts them."""
        prompt = self._checked(next(self._encode([pair.prompt]), None))
        response = self._checked(next(self._encode([pair.response]), None))
        before, after = self._frame
        between, _ = self._joint
        room = self.max_tokens - len(before) - len(between) - len(after)
        first, second, cut = self._cut_pair(prompt, response, room, cutting)
        ids = [*before, *first, *between, *second, *after]
        segments = self._segments(len(ids) - len(second) - len(after), len(second))
        return Rendered(np.asarray(ids, np.int32), None, cut, segments=segments)

    @cached_property
    def _joint(self) -> tuple[list[int], tuple[int, int, int]]:
        """What the tokenizer puts between two texts, and the segments of both and of the end."""
        before, after = self._frame
        joint = self._tokenizer("x", "x")
        ids, size = list(joint["input_ids"]), len(next(self._encode(["x"])) or [])
        second = len(ids) - size - len(after)
        types = list(joint.get("token_type_ids") or [0] * len(ids))
        return ids[len(before) + size : second], (types[len(before)], types[second], types[-1])

    def _segments(self, first: int, second: int) -> np.ndarray | None:
        """Return the segment ids of a pair of so many tokens up to the second text, and of it.

        None where the model reads none.
        """
        if self.inputs.segments < 2 or "token_type_ids" not in self._tokenizer.model_input_names:
            return None
        _, after = self._frame
        return np.repeat(np.array(self._joint[1], np.int32), [first, second, len(after)])

    def _cut_pair(
        self, prompt: list[int], response: list[int], room: int, cutting: Cutting
    ) -> tuple[list[int], list[int], Cut | None]:
        """Return what stays of two segments for which there is so much room, and what was cut."""
        rule = cutting.rule or self.truncation
        over = len(prompt) + len(response) - room
        if over <= 0:
            return prompt, response, None
        if room <= 0:
            raise ItemTooLong(f"the model's limit of {self.max_tokens} tokens has no room for text")
        if rule == "prompt_start" and over > len(prompt):
            raise self._response_too_long(len(response), room)
        if rule == "response_end" and over >= len(response):
            rule = "longest_first"
        first, second = truncation.plan(rule, len(prompt), len(response), over)
        own: truncation.Side = "start" if self._tokenizer.truncation_side == "left" else "end"
        side = cutting.side or own
        sides = Sides(side, side) if rule == "longest_first" else Sides()
        return (
            _end_of(prompt, first, sides.prompt),
            _end_of(response, second, sides.response),
            _cut_of(None, first < len(prompt), second < len(response)),
        )

    def _finish_parts(self, parts: Parts) -> Rendered:
        """Tokenize prompt and steps one by one; each step is read at its last token."""
        flat = [parts.prompt, *(text for step in parts.steps for text in step)]
        prompt, *rest = [self._checked(ids) for ids in self._encode(flat)]
        if self.bos is not None:
            prompt = [self.bos, *_stripped(prompt, self.bos)]
        steps = [[*rest[i], *rest[i + 1]] for i in range(0, len(rest), 2)]
        if not all(steps):
            raise EmptyItem("a step has no tokens; leave it out", param="steps")
        needed = sum(map(len, steps))
        front = [] if self.bos is None else [self.bos]
        room = self.max_tokens - needed
        if room < len(front):
            raise ItemTooLong(
                f"the steps alone have {needed} tokens, the model takes {self.max_tokens}"
            )
        truncated = len(prompt) > room
        if truncated:
            prompt = [*front, *prompt[len(prompt) - room + len(front) :]]
        ids = np.asarray([*prompt, *(token for step in steps for token in step)], np.int32)
        ends = len(prompt) - 1 + np.cumsum([len(step) for step in steps])
        cut: Cut | None = "prompt" if truncated else None
        return Rendered(ids, None, cut, marks=Marks(ends.astype(np.int32)))

    def _marked(self, rendered: Rendered, item: Spelt) -> Rendered:
        """Say where the item is read."""
        if isinstance(item.item, Ids) and item.item.reads_all:
            return replace(rendered, marks=Marks(np.arange(len(rendered.ids), dtype=np.int32)))
        if self._card.policy is not None:
            return replace(rendered, marks=self._response_marks(rendered, item))
        end = self._prompt_end(rendered, item) if self._reader.needs_prompt else None
        marks = self._reader.marks(rendered.ids, item.steps, end)
        return replace(rendered, marks=marks or self._before_padding(rendered.ids))

    def _before_padding(self, ids: np.ndarray) -> Marks | None:
        """Return the last token that isn't padding, as transformers' own class looks for it.

        None where that is the last of all. Of padding alone the class reads the first token.
        """
        padding = self.inputs.padding
        if padding is None or not self._is_read_by_its_class or ids[-1] != padding:
            return None
        others = np.flatnonzero(ids != padding)
        return Marks(np.array([others[-1] if len(others) else 0], np.int32))

    def _prompt_end(self, rendered: Rendered, item: Spelt) -> int | None:
        """Return the place of the prompt's last token; None where nobody can tell.

        As GPM's authors count it, from the end: what the response adds to the prompt's turns
        rendered alone.
        """
        if not isinstance(item.item, Conversation) or rendered.text is None:
            return None
        prompt = replace(item.item, messages=item.item.messages[:-1])
        text = self._alone(prompt, generation_prompt=False)
        alone, whole = self._ids([text, rendered.text])
        behind = len(whole) - len(alone) + len(self._appended)
        place = len(rendered.ids) - 1 - behind
        ends = place >= 0 and rendered.ids[place] == alone[-1]
        return place if ends else None

    def _alone(self, prompt: Conversation, *, generation_prompt: bool) -> str:
        """Return a prompt's turns as the template spells them without the response."""
        if self._spec.turns is not None:
            turns = self._spec.turns.model_copy(update={"end": ""})
            return spelling.write(prompt.messages, turns)
        try:
            (text,) = self._chat([prompt], generation_prompt=generation_prompt)
        except Exception as error:  # noqa: BLE001  a template is code that may raise anything
            raise self._chat_template.refusal(error) from None
        return text

    def _response_marks(self, rendered: Rendered, item: Spelt) -> Marks:
        """Return the places before each token of the response and of what ends it."""
        if not isinstance(item.item, Conversation) or rendered.text is None:
            raise InvalidField(
                "the model scores responses token by token; send one with its prompt"
            )
        prompt = replace(item.item, messages=item.item.messages[:-1])
        text = self._alone(prompt, generation_prompt=True)
        if not rendered.text.startswith(text):
            raise TemplateRefused(
                "the chat template spells the prompt otherwise once it is answered: which tokens "
                "are the response's can't be told"
            )
        spans = self._tokenizer(
            rendered.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
        count = sum(end > len(text) for _, end in spans)
        last = len(rendered.ids) - 1
        first = max(0, last - count)
        positions = np.arange(first, last, dtype=np.int32)
        return Marks(positions, next_ids=rendered.ids[first + 1 :])

    def _checked_segments(self, segments: Sequence[int]) -> np.ndarray | None:
        """Return an item's segment ids; None where the model reads none, as its own code does."""
        known = self.inputs.segments
        if not known and "token_type_ids" in self._tokenizer.model_input_names:
            return None
        if max(segments) >= max(1, known):
            raise InvalidField(
                f"'token_type_ids' has {max(segments)}; the model's segments end at "
                f"{max(0, known - 1)}",
                param="token_type_ids",
            )
        return np.asarray(segments, dtype=np.int32) if any(segments) else None

    def _check_ids(self, ids: np.ndarray, *, are_verbatim: bool) -> None:
        """Refuse ids that the model has no embedding for, wherever they come from.

        On a GPU such an id would end the device's process.
        """
        highest, known = int(ids.max()), self.inputs.vocabulary
        if highest < known:
            return
        if are_verbatim:
            raise InvalidField(
                f"'input_ids' has an id of {highest}; the model's vocabulary ends at {known - 1}",
                param="input_ids",
            )
        added = self._tokenizer.added_tokens_decoder.get(highest)  # of others: text is private
        token = (
            f"the token {added.content!r}, id {highest}" if added else f"a token of id {highest}"
        )
        raise InvalidField(
            f"the text names {token}; the model's vocabulary ends at {known - 1}: leave it out"
        )

    def _verbatim(self, source: Ids) -> Rendered:
        if not source.ids:
            raise EmptyItem("'input_ids' is empty; send at least one id")
        if len(source.ids) > self.max_tokens:
            raise ItemTooLong(
                f"'input_ids' has {len(source.ids)} tokens, the model takes {self.max_tokens}; ids "
                "are scored verbatim and never cut"
            )
        return Rendered(
            np.asarray(source.ids, dtype=np.int32),
            None,
            segments=None if source.segments is None else self._checked_segments(source.segments),
        )

    @staticmethod
    def _checked(ids: list[int] | None) -> list[int]:
        if ids is None:
            raise InvalidField(
                "the text holds a lone surrogate, which is not Unicode; remove or replace it"
            )
        return list(ids)

    def _declared_limit(self, config: dict[str, Any]) -> int:
        bounds = [one for one in (stated_tokens(config), steady_tokens(config)) if one is not None]
        return int(min(self._tokenizer.model_max_length, *bounds, _UNLIMITED))


@dataclass(frozen=True, slots=True)
class _Pair:
    prompt: str
    response: str


def _most_removed(rule: Truncation, texts: Texts) -> int:
    """Return how many tokens of an item's texts may go."""
    match rule:
        case "prompt_start":
            return texts.prompt
        case "response_end":
            return len(texts.answer) - 1  # nothing said can't be judged
    return texts.prompt + len(texts.answer)


def _cut_of(source: Source | None, prompt: bool, response: bool) -> Cut:
    """Return the name of what was cut of an item."""
    if isinstance(source, Text):
        return "text"
    return "both" if prompt and response else "response" if response else "prompt"


def _end_of(ids: list[int], count: int, side: truncation.Side) -> list[int]:
    """Return so many ids of a segment, cut at that end."""
    return ids[len(ids) - count :] if side == "start" else ids[:count]


def _stripped(ids: list[int], token: int | None) -> list[int]:
    """Return the ids without any run of `token` at the start."""
    start = next((i for i, one in enumerate(ids) if one != token), len(ids))
    return ids[start:]


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}/config.json can't be read") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder}/config.json is not an object")
    return {**config, **(config.get("text_config") or {})}
