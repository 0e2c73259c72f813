"""A checkpoint's tokenizer: from text to ids without special tokens, and what it says of itself."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from assay.cards.positions import stated_tokens, steady_tokens
from assay.errors import CheckpointError, InvalidField, shown
from assay.prompts import truncation
from assay.prompts.split_core import SplitCore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from assay.items import Side
    from assay.prompts.mentions import StandIns
    from assay.prompts.truncation import Spans

_SHOWN = 256  # characters of a token; real ones have up to some 130, of blanks
_UNLIMITED = 1 << 20  # transformers writes 1e30 where a tokenizer states no limit
_VOCABULARIES = ("tokenizer.json", "*.model", "vocab*")  # transformers makes do with none
_SAMPLES = ["Seven — is 7 a prime?\n\n", "  <s>x</s>\u00a0[CLS] e\u0301 🌞", ""]


class Tokenizer:
    """One checkpoint's tokenizer; `hf` is transformers' own. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Load it; no code of the checkpoint's runs.

        Raises:
            CheckpointError: There is none, or it can't be read.
        """
        from transformers import AutoTokenizer, logging  # noqa: PLC0415  slow to import

        logging.set_verbosity_error()
        if not any(file for pattern in _VOCABULARIES for file in folder.glob(pattern)):
            raise CheckpointError(
                f"{folder} has no tokenizer (tokenizer.json, *.model or vocab*); copy it from the "
                "model it was trained from"
            )
        try:
            self.hf: Any = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
        except Exception as error:
            raise _unreadable(folder, error) from error
        self._split_core: SplitCore | None = None
        self._splits = False

    # --- from text to ids -------------------------------------------------------------------

    def encode(self, texts: Sequence[str]) -> Iterator[list[int] | None]:
        """Yield the ids of each text, no special tokens added; None where it isn't Unicode."""
        if not texts:
            return
        try:
            yield from self.ids(texts)
        except (UnicodeEncodeError, TypeError):
            if len(texts) == 1:
                yield None
                return
            for text in texts:
                yield from self.encode([text])

    def encode_one(self, text: str) -> list[int] | None:
        """Return the ids of one text, no special tokens added; None where it isn't Unicode."""
        return next(self.encode([text]))

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, no special tokens added; all are Unicode."""
        if self._splits and self._split_core is not None:
            return self._split_core.ids(texts)
        if self._core is not None:
            encoded = self._core.encode_batch_fast(texts, add_special_tokens=False)
            return [encoding.ids for encoding in encoded]
        ids: list[list[int]] = self.hf(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    @cached_property
    def _core(self) -> Any | None:
        """The tokenizer's Rust core, where it gives by itself the ids that transformers gives.

        It does without an offset for each token and a dictionary for each text. None where there
        is no such core, or where transformers does more than call it.
        """
        core = getattr(self.hf, "backend_tokenizer", None)
        if core is None:
            return None
        # This call also leaves the core without padding and truncation.
        expected = self.hf(_SAMPLES, add_special_tokens=False)["input_ids"]
        encoded = core.encode_batch_fast(_SAMPLES, add_special_tokens=False)
        return core if [encoding.ids for encoding in encoded] == expected else None

    def spans(self, text: str) -> Spans:
        """Return where each token of a text stands in it, or each character if none can tell."""
        return self.offsets(text) if self.hf.is_fast else truncation.words(text)

    def offsets(self, text: str) -> Spans:
        """Return where each token of a text stands in it; only fast tokenizers can."""
        if self._splits and self._split_core is not None:
            return self._split_core.offsets(text)
        spans: Spans = self.hf(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
        return spans

    @contextmanager
    def splitting(self, stand_ins: StandIns) -> Iterator[None]:
        """Read stand-ins as the text that they are for, for a while.

        Raises:
            InvalidField: This tokenizer can't.
        """
        if self._core is None:
            raise InvalidField(
                "the model's tokenizer can't read special tokens as text; send without "
                '"special_tokens": "split"',
                param="special_tokens",
            )
        if self._split_core is None:
            self._split_core = SplitCore(self._core, stand_ins, self.hf.unk_token)
        self._splits = True
        try:
            yield
        finally:
            self._splits = False

    # --- its vocabulary ---------------------------------------------------------------------

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Return the vocabulary's own strings for ids, beginnings of those beyond any measure."""
        return [str(token)[:_SHOWN] for token in self.hf.convert_ids_to_tokens(list(ids))]

    def look_up(self, token: str) -> int:
        """Return the id of a token that a card names.

        Raises:
            CheckpointError: There is none, or it is several tokens.
        """
        vocabulary = self.hf.get_vocab()
        if token in vocabulary:
            return int(vocabulary[token])
        ids = self.hf(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == self.hf.unk_token_id:
            spelt = "doesn't know" if len(ids) == 1 else f"spells with {len(ids)}"
            raise CheckpointError(
                f"the card names the token {token!r}, which this tokenizer {spelt}"
            )
        return int(ids[0])

    @property
    def ordinary_tokens(self) -> int:
        """How many ids the tokenizer's own vocabulary has, without tokens that were added to it."""
        added = self.hf.added_tokens_decoder
        return 1 + max((i for i in self.hf.get_vocab().values() if i not in added), default=-1)

    @cached_property
    def special_tokens(self) -> list[str]:
        """The tokens that it takes for special wherever they stand in a text."""
        added = self.hf.added_tokens_decoder.values()
        return [token.content for token in added if token.special and token.content.strip()]

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Their ids, but for that of what isn't in the vocabulary."""
        tokens = [token for token in self.special_tokens if token != self.hf.unk_token]
        return frozenset(self.hf.convert_tokens_to_ids(tokens))

    @cached_property
    def longest_token(self) -> int:
        """The characters that one token can stand for at most."""
        return max(map(len, self.hf.get_vocab()))

    # --- what it puts around text -----------------------------------------------------------

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """The special ids that the tokenizer itself puts before and after plain text."""
        bare = list(self.hf("x", add_special_tokens=False)["input_ids"])
        full = list(self.hf("x")["input_ids"])
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return full[:start], full[start + len(bare) :]
        return [], []

    @cached_property
    def joint(self) -> tuple[list[int], tuple[int, int, int]]:
        """What the tokenizer puts between two texts, and the segments of both and of the end."""
        before, after = self.frame
        joint = self.hf("x", "x")
        ids, size = list(joint["input_ids"]), len(self.encode_one("x") or [])
        second = len(ids) - size - len(after)
        types = list(joint.get("token_type_ids") or [0] * len(ids))
        return ids[len(before) + size : second], (types[len(before)], types[second], types[-1])

    @cached_property
    def has_encoder_frame(self) -> bool:
        """Whether sequences stand between a classification and a separator token."""
        before, after = self.frame
        return bool(
            before
            and after
            and before[0] == self.hf.cls_token_id
            and after[-1] == self.hf.sep_token_id
        )

    @property
    def knows_segments(self) -> bool:
        """Whether segment ids are among what its models read."""
        return "token_type_ids" in self.hf.model_input_names

    # --- what it cuts -------------------------------------------------------------

    @property
    def truncation_side(self) -> Side:
        """At which end it cuts texts by itself."""
        return "start" if self.hf.truncation_side == "left" else "end"

    def declared_limit(self, config: Mapping[str, Any]) -> int:
        """Return how many tokens a sequence may have, by tokenizer and config.json."""
        bounds = [
            limit for limit in (stated_tokens(config), steady_tokens(config)) if limit is not None
        ]
        return int(min(self.hf.model_max_length, *bounds, _UNLIMITED))


def checked(ids: list[int] | None) -> list[int]:
    """Return a text's own ids.

    Raises:
        InvalidField: It has none, as it isn't Unicode.
    """
    if ids is None:
        raise InvalidField(
            "the text holds a lone surrogate, which is not Unicode; remove or replace it"
        )
    return list(ids)


def _unreadable(folder: Path, error: Exception) -> CheckpointError:
    """Say why there is no tokenizer: transformers reads config.json before it."""
    from transformers import AutoConfig  # noqa: PLC0415  slow to import

    try:
        AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as wrong:  # noqa: BLE001  huggingface_hub has errors of its own for a field
        if type(wrong).__name__.startswith("StrictDataclass"):
            said = shown(" ".join(str(wrong).split()))
            return CheckpointError(f"{folder}/config.json can't be read: {said}")
    return CheckpointError(f"{folder} has no tokenizer that can be read ({type(error).__name__})")
