"""A name, path or hub id, resolved to a checkpoint folder with its card.

A name is a folder of the model repository; a path is a checkpoint folder; anything else of the form
`org/name[@revision]` is fetched from the hub: safetensors, tokenizer files, and code to be read,
not run.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shlex
import stat
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from assay.cards import (
    adapter,
    calibration,
    catalogue,
    code,
    headers,
    layouts,
    naming,
    parts,
    paths,
    quantized,
)
from assay.cards import card as cards
from assay.cards.recognise import recognise
from assay.errors import CheckpointError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from assay.cards.calibration import Calibration

STARTER = "starter"
_HUB_FILES = ["*.safetensors", *(f"*{suffix}" for suffix in code.PINNED)]
TEMPLATE_FILES = (
    "tokenizer*",
    "*.jinja",
    "*.model",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
_LONGEST_PATH = 1024  # characters of one that a message repeats
_PROXY_VARIABLES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"})
_PATH_STARTS = (".", "/", "~")
_STANDARD_OUTPUT = 1  # a file descriptor
_RENDERING = ("template", "steps", "read", "heads", "policy")  # tables of a card
MECHANISM = (*_RENDERING, "trunk", "score", "spread", "preference")
# What is cut, what `normalize` answers, and how outputs that are members are combined.
_DECIDING = (*MECHANISM, "limits", "statistics", "ensemble")
fetch_listeners: list[Callable[[bool], None]] = []  # hear that a fetch begins, and that it ended
_FILES = (".json", ".toml", ".jinja", ".model", ".txt", ".py", ".safetensors", ".pt", ".bin")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with `config.json` and safetensors, and the name it is served under.

    An adapter has a `base`, where its config.json and tokenizer may be.
    """

    name: str
    folder: Path
    card: cards.Card
    base: Path | None = None

    @property
    def config_folder(self) -> Path:
        """Where config.json is."""
        return self.folder if self.base is None else adapter.config_folder(self.folder, self.base)

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer and its chat template are."""
        if self.base is None:
            return self.folder
        return adapter.tokenizer_folder(self.folder, self.base)

    @property
    def revision(self) -> str:
        """The first 12 hex digits of the SHA-256 over everything that decides the scores."""
        digest = revision(self.folder, self.card)
        return digest if self.base is None else combined_revision([digest, revision(self.base)])

    @property
    def template_key(self) -> str:
        """A key that is equal for checkpoints whose items render to the same ids."""
        return template_key(self.tokenizer_folder, self.card)


@dataclass(frozen=True, slots=True)
class Source:
    """What one argument of `assay serve` stands for: one checkpoint, or an ensemble's members."""

    name: str
    card: cards.Card
    checkpoints: tuple[Checkpoint, ...]
    notes: tuple[str, ...] = ()  # how it was told whose it is
    calibration: Calibration | None = None

    @property
    def is_ensemble(self) -> bool:
        """Whether the members are combined into one reward."""
        return bool(self.card.folders)


@dataclass(frozen=True, slots=True)
class Found:
    """A folder, the card that holds for it, and what its files leave open."""

    name: str
    folder: Path
    card: cards.Card
    family: str = ""
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def resolve(
    reference: str,
    repository: Path,
    *,
    trusted: Collection[str] = (),
    remotes: Collection[str] = (),
    name: str | None = None,
) -> Source:
    """Return what a name, path or hub id stands for, fetching it if need be.

    `NAME=PATH` is the card NAME of the catalogue over the checkpoint in PATH. `trusted` are names
    whose own code may be run, `remotes` those whose weights are elsewhere. `name` is what to serve
    it under.

    Raises:
        CheckpointError: Nothing of that name exists, what exists isn't a checkpoint, or it is in
            doubt what it is.
    """
    target = find(reference, repository, trusted=trusted, name=name)
    folder = target.folder
    if target.name in remotes:
        checkpoint = _checkpoint(target.name, folder, target.card, has_weights=False)
        return Source(target.name, target.card, (checkpoint,), target.notes)
    if target.doubts:
        raise CheckpointError(
            f"{folder} looks like {target.family}, but: {'; '.join(target.doubts)}. Say whose card "
            f"holds (NAME={reference}, with a NAME of `assay models`), or settle it in a card.toml "
            f"in that folder: `assay inspect {reference}` prints one to begin with"
        )
    return replace(
        source(target), notes=target.notes, calibration=calibration.beside(target.folder)
    )


def source(target: Found) -> Source:
    """Return the checkpoints of what was found: one, an ensemble's members, or a policy's two.

    Raises:
        CheckpointError: Files are missing, or can't be served.
    """
    name, folder, card = target.name, target.folder, target.card
    if card.policy is not None:
        return Source(name, card, _policy(name, folder, card))
    if not card.folders:
        return Source(name, card, (_checkpoint(name, folder, card),))
    for member in card.folders:
        paths.check_inside(folder, folder / member)
    members = tuple(
        _checkpoint(f"{name}/{member}", folder / member, _member_card(card, folder / member))
        for member in card.folders
    )
    return Source(name, card, members)


def revision(folder: Path, card: cards.Card | None = None) -> str:
    """Return the first 12 hex digits of the SHA-256 over everything that decides the scores."""
    named = [head.file for head in card.heads.values() if head.file] if card else []
    files = [glob.escape(path.name) for name in named for path in headers.head_files(folder, name)]
    said = _said(card, _DECIDING)
    weights = ("config.json", adapter.CONFIG, "*.safetensors", *files)
    return _digest(folder, (*weights, code.FILES, *TEMPLATE_FILES), said)


def template_key(folder: Path, card: cards.Card | None = None) -> str:
    """Return a key that is equal for folders whose items render to the same ids."""
    return _digest(folder, TEMPLATE_FILES, _said(card, _RENDERING))


def combined_revision(revisions: Iterable[str], said: object = None) -> str:
    """Return the revision of what is made of others: theirs, and what else decides its scores.

    `said` is anything that JSON can hold, None for nothing.
    """
    whole = "\n".join([*revisions, *([] if said is None else [json.dumps(said, sort_keys=True)])])
    return hashlib.sha256(whole.encode()).hexdigest()[:12]


def find(
    reference: str, repository: Path, *, trusted: Collection[str] = (), name: str | None = None
) -> Found:
    """Return the folder of a name, path or hub id with its card: written, or recognised.

    `name` is what to call it; without one the folder, the card or the hub says.

    Raises:
        CheckpointError: There is none, or it is nothing that can be served without a card.
    """
    folders = catalogue.folders(repository)
    carded, path = _split(reference, folders)
    if carded is not None:
        folder = _folder(path)
        return Found(name or carded, folder, _tuned(cards.read(folders[carded]), folder))
    if not reference.startswith(_PATH_STARTS) and (label := paths.label(reference)) in folders:
        return replace(_named(label, folders[label], repository), name=name or label)
    if paths.exists(reference):
        folder_name = paths.name(reference)
        called = name or folder_name
        folder = _folder(reference)
        return _described(
            called, folder, repository, called=folder_name, is_trusted=called in trusted
        )
    if _looks_like_hub_id(reference):
        hub_id = reference.partition("@")[0]
        called = name or hub_id
        folder = _fetch(reference)
        card = catalogue.of_source(hub_id, repository)
        if card is not None:
            return Found(called, folder, _tuned(card, folder), card.family or "")
        return _described(called, folder, repository, called=hub_id, is_trusted=called in trusted)
    served = [name for name, folder in folders.items() if has_weights(folder, cards.read(folder))]
    near = get_close_matches(reference, folders, n=3)
    raise CheckpointError(
        f"'{shown(reference, _LONGEST_PATH)}' is neither a model of the repository {repository} "
        f"(it has: {', '.join(served) or 'none'}), nor of the catalogue ("
        + (f"near it are {', '.join(near)}" if near else f"{len(folders)} cards: `assay models`")
        + "), nor a folder, nor a hub id of the form org/name[@revision]"
    )


def has_weights(folder: Path, card: cards.Card) -> bool:
    """Whether a checkpoint lies beside a card."""
    marks = ("config.json", adapter.CONFIG)
    return bool(card.folders) or any((folder / name).is_file() for name in marks)


def _named(name: str, folder: Path, repository: Path) -> Found:
    """Return a folder of the repository; weights that aren't there are the card's source's."""
    _check_regular(folder)
    if not _has_card(folder):
        return _described(name, folder, repository)
    card = cards.read(folder)
    if has_weights(folder, card) or any(folder.glob("*.safetensors")):
        return Found(name, folder, _with_moments(card, folder), card.family or "")
    if card.source is None:
        raise CheckpointError(
            f"'{name}' is a card without weights; give them: {name}=PATH, with the folder of a "
            "checkpoint of that family"
        )
    at = f"@{card.source.revision}" if card.source.revision else ""
    folder = _fetch(f"{card.source.id}{at}")
    return Found(name, folder, _tuned(card, folder), card.family or "")


def _with_moments(card: cards.Card, folder: Path) -> cards.Card:
    """Return a checkpoint's own card with the statistics that its config.json has beside it."""
    if card.family != "OpenRLHF" or not _is_checkpoint(folder):
        return card
    return layouts.moments(card, parts.of(folder))


def _tuned(card: cards.Card, folder: Path) -> cards.Card:
    """Return a card of the catalogue with the numbers that its family keeps in config.json."""
    if not layouts.keeps_numbers(card) or not _is_checkpoint(folder):
        return card
    return layouts.tuned(card, parts.of(folder))


def _described(
    name: str, folder: Path, repository: Path, *, called: str = "", is_trusted: bool = False
) -> Found:
    """Return a checkpoint with its own card, or the one that its name or its files ask for.

    `called` is what its folder is called, where it is served under another name.
    """
    if _has_card(folder):
        card = _with_moments(cards.read(folder), folder)
        return Found(name, folder, card, card.family or "")
    if adapter.is_adapter(folder):
        return Found(name, folder, cards.Card(), "an adapter")
    if not _is_checkpoint(folder):
        return Found(name, folder, cards.Card())
    if is_trusted and code.auto_class(folder) is not None:
        return Found(name, folder, cards.Card(), "code of its own")
    quantized.check(folder)
    if named := naming.card_of(called or name, folder, repository):
        entry, card, by = named
        note = (
            f"{by} is called as the catalogue's {entry}, and its files agree: that card is taken; "
            "another card's name before it, NAME=PATH, or a card.toml in it says otherwise"
        )
        return Found(name, folder, _tuned(card, folder), card.family or entry, notes=(note,))
    recognised = recognise(folder)
    return Found(
        name, folder, recognised.card, recognised.family, recognised.doubts, recognised.notes
    )


def _has_card(folder: Path) -> bool:
    """Whether there is a card; not one that a shell has just made for our own output."""
    path = folder / cards.FILE_NAME
    return path.is_file() and not _is_our_output(path)


def _is_our_output(path: Path) -> bool:
    """Whether standard output goes into an empty file: `assay inspect PATH --card > FILE`."""
    try:
        said = path.stat()
        return said.st_size == 0 and os.path.samestat(said, os.fstat(_STANDARD_OUTPUT))
    except OSError:
        return False


def _is_checkpoint(folder: Path) -> bool:
    """Whether there is something to recognise; `_checkpoint` says what is missing otherwise."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _split(reference: str, card_names: Collection[str]) -> tuple[str | None, str]:
    """Return the card and the path of `CARD=PATH`; None and all of it where `=` is the path's.

    Raises:
        CheckpointError: It is neither, or may be both.
    """
    carded, _, path = reference.partition("=")
    if not path or reference.startswith(_PATH_STARTS):
        return None, reference
    is_path = paths.exists(reference)
    if is_path and carded in card_names and paths.exists(path):
        raise CheckpointError(
            f"'{reference}' is a folder, and also the card '{carded}' over the folder '{path}'; "
            f"write './{reference}' for the first, or '{carded}=./{path}' for the second"
        )
    if is_path:
        return None, reference
    if carded in card_names:
        return carded, path
    raise CheckpointError(
        f"the catalogue has no card '{shown(carded)}'; `assay models` lists what it has; "
        + (
            f"to serve '{path}' under that name, give --name {shlex.quote(reference)}"
            if paths.exists(path)
            else f"nor is '{shown(reference, _LONGEST_PATH)}' a folder"
        )
    )


def _folder(path: str) -> Path:
    if not paths.exists(path) or not paths.of(path).is_dir():
        raise CheckpointError(
            f"{shown(path, _LONGEST_PATH)} is not a folder; give the folder that holds config.json "
            "and *.safetensors"
        )
    folder = paths.of(path).resolve()
    _check_regular(folder)
    return folder


def _check_regular(folder: Path) -> None:
    """Refuse what is no file of a folder's own: to read a pipe or a device may take for ever.

    Raises:
        CheckpointError: There is a pipe, a device or a socket, a link that leads out, or a folder
            that is called as a file.
    """
    for path in sorted(folder.iterdir()):
        with contextlib.suppress(FileNotFoundError):  # a link to nothing
            mode = path.stat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise CheckpointError(
                    f"{path} is a pipe, a device or a socket, not a file; take it out of the folder"
                )
            if stat.S_ISREG(mode):
                paths.check_inside(folder, path)
            elif path.suffix in _FILES:
                raise CheckpointError(f"{path} is a folder, where a file is expected; rename it")


def _looks_like_hub_id(reference: str) -> bool:
    parts = reference.split("@", maxsplit=1)[0].split("/")
    return (
        len(parts) == 2
        and all(parts)
        and not reference.startswith(_PATH_STARTS)
        and not paths.exists(reference)
    )


def _fetch(reference: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  slow to import
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    name, _, hub_revision = reference.partition("@")
    _say_of_fetching(begins=True)
    try:
        return Path(
            snapshot_download(name, revision=hub_revision or None, allow_patterns=_HUB_FILES)
        )
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"'{reference}' is not in the local hub cache and the hub can't be reached; check the "
            f"network, or HF_HUB_OFFLINE, or give a local folder{_by_proxy()}"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.filename:
            raise CheckpointError(
                f"'{reference}' can't be kept in the hub's cache: {error.filename}: "
                f"{error.strerror}; set HF_HOME to a folder that can be written"
            ) from error
        raise CheckpointError(
            f"'{shown(reference)}' can't be fetched from the hub ({type(error).__name__}); check "
            f"the spelling, the revision and HF_TOKEN{_by_proxy()}"
        ) from error
    except ImportError as error:
        raise CheckpointError(
            f"'{reference}' can't be fetched from the hub: {error}; or give a local "
            f"folder{_by_proxy()}"
        ) from error
    except Exception as error:  # what its HTTP library makes of a malformed variable, for one
        raise CheckpointError(
            f"'{reference}' can't be fetched from the hub ({type(error).__name__}); give a local "
            f"folder{_by_proxy()}"
        ) from error
    finally:
        _say_of_fetching(begins=False)


def _say_of_fetching(*, begins: bool) -> None:
    for hear in fetch_listeners:
        hear(begins)


def _by_proxy() -> str:
    """Name the variables that send requests by a proxy; their values may hold passwords."""
    names = sorted(name for name in os.environ if name.upper() in _PROXY_VARIABLES)
    return f"; or mend the proxy that {', '.join(names)} may name" if names else ""


def _member_card(card: cards.Card, folder: Path) -> cards.Card:
    """Return a member's card: its own, or else how the ensemble's says that members are read.

    Limits are the ensemble's where the member states none, statistics the member's own.
    """
    moments = card.statistics.members.get(folder.name) if card.statistics else None
    statistics = cards.Statistics(mean=moments.mean, std=moments.std) if moments else None
    member_card = cards.read(folder)
    if not member_card.model_fields_set:
        said = {name: getattr(card, name) for name in MECHANISM if name in card.model_fields_set}
        member_card = cards.Card(summary=card.summary, **said)
    limits = member_card.limits if "limits" in member_card.model_fields_set else card.limits
    return member_card.model_copy(
        update={"limits": limits, "statistics": statistics or member_card.statistics}
    )


def _policy(name: str, folder: Path, card: cards.Card) -> tuple[Checkpoint, ...]:
    """Return a policy and its reference, if it has one."""
    policy = _checkpoint(name, folder, card)
    reference = card.policy.reference if card.policy else None
    if reference is None:
        return (policy,)
    paths.check_inside(folder, folder / reference)
    beside = _checkpoint(f"{name}/reference", folder / reference, card)
    return policy, beside


def _checkpoint(
    name: str, folder: Path, card: cards.Card, *, has_weights: bool = True
) -> Checkpoint:
    if not folder.is_dir():
        raise CheckpointError(f"{name}: {folder} is not a folder")
    _check_regular(folder)
    folder = paths.readable(folder)
    if adapter.is_adapter(folder):
        base = paths.readable(adapter.base_folder(folder, _fetch))
        _check_regular(base)
        for path in (adapter.config_folder(folder, base), adapter.tokenizer_folder(folder, base)):
            if (path / headers.CONFIG).is_file():
                headers.config(path)
        quantized.check(base)
        return Checkpoint(name, folder, card, base)
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{name}: {folder} has no config.json; give the folder of a transformers checkpoint"
        )
    headers.config(folder)
    quantized.check(folder)
    if has_weights and not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise CheckpointError(
                f"{name}: {folder} holds only pickles ({', '.join(pickles)}), which can "
                "run code when read; convert them to safetensors (save_pretrained writes them)"
            )
        raise CheckpointError(f"{name}: {folder} has no *.safetensors file")
    return Checkpoint(name, folder, card)


def _said(card: cards.Card | None, tables: Iterable[str]) -> str:
    """Return what a card says in some tables; nothing where it leaves them as they are."""
    if card is None:
        return ""
    said = card.model_dump_json(include=set(tables), exclude_defaults=True)
    return "" if said == "{}" else said


def _digest(folder: Path, patterns: Iterable[str], said: str = "") -> str:
    digest = hashlib.sha256(said.encode())
    files = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    for path in sorted(files):
        digest.update(
            path.relative_to(folder).as_posix().encode("utf-8", "surrogateescape") + b"\0"
        )
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]
