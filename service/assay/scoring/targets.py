"""What is served, by name: models, ensembles of them, their templates and cards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assay.cards import card as cards
from assay.cards import repository
from assay.engine.template import Conversation, Template
from assay.errors import CheckpointError, SettingsError, UnknownTarget

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from assay.settings import Settings


_WARM = Conversation(
    ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello"})
)


@dataclass(frozen=True, slots=True)
class Model:
    """One checkpoint with what the front needs of it."""

    name: str
    checkpoint: repository.Checkpoint
    revision: str
    template: Template
    template_key: str  # equal for models whose items render alike


@dataclass(frozen=True, slots=True)
class Target:
    """What a request can name: one model, or an ensemble of several."""

    name: str
    card: cards.Card
    members: tuple[Model, ...]
    is_ensemble: bool
    revision: str

    def member_label(self, model: Model) -> str:
        """Return a member's name within this target."""
        return model.name.removeprefix(f"{self.name}/")


@dataclass(frozen=True, slots=True)
class Targets:
    """Everything served; the first is the default."""

    by_name: Mapping[str, Target] = field(default_factory=dict)

    @property
    def default(self) -> Target:
        """The target of requests that name none."""
        return next(iter(self.by_name.values()))

    @property
    def models(self) -> list[Model]:
        """Every checkpoint, once."""
        return list({m.name: m for t in self.by_name.values() for m in t.members}.values())

    def get(self, name: str | None) -> Target:
        """Return the named target, or the default.

        Raises:
            UnknownTarget: Nothing of that name is served; the message lists what is.
        """
        if name is None:
            return self.default
        if name not in self.by_name:
            served = ", ".join(f"'{known}'" for known in self.by_name)
            raise UnknownTarget(f"no model '{name}' is served; there are {served}", param="model")
        return self.by_name[name]


def load(settings: Settings) -> Targets:
    """Resolve what the settings name: folders, revisions, tokenizers. Slow; touches disk.

    Raises:
        CheckpointError: A name, folder or tokenizer can't be used.
        SettingsError: Two things share a name, or an ensemble names what isn't served.
    """
    targets: dict[str, Target] = {}
    for reference in settings.models:
        source = repository.resolve(reference, settings.repository)
        models = tuple(_model(one, settings) for one in source.checkpoints)
        if source.is_ensemble:
            _add(targets, _ensemble(source.name, source.card, models))
        for model in models:
            _add(targets, _single(model))
    for name, members in settings.ensembles.items():
        _add(targets, _ensemble(name, cards.Card(), tuple(_members(name, members, targets))))
    return Targets(targets)


def _model(checkpoint: repository.Checkpoint, settings: Settings) -> Model:
    limit = settings.max_tokens or checkpoint.card.limits.max_tokens
    try:
        template = Template(checkpoint.folder, max_tokens=limit)
        revision = repository.revision(checkpoint.folder)
        template.render_all([_WARM])  # compiles the chat template before the first request
    except OSError as error:
        raise CheckpointError(
            f"{checkpoint.folder} can't be read: {error.strerror or error}"
        ) from error
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.name}: {error.message}") from error
    return Model(
        name=checkpoint.name,
        checkpoint=checkpoint,
        revision=revision,
        template=template,
        template_key=f"{repository.template_key(checkpoint.folder)}/{template.max_tokens}",
    )


def _members(ensemble: str, names: Iterable[str], targets: Mapping[str, Target]) -> Iterable[Model]:
    for name in names:
        if name not in targets or targets[name].is_ensemble:
            known = ", ".join(n for n, target in targets.items() if not target.is_ensemble)
            raise SettingsError(
                f"ensemble '{ensemble}' names '{name}', which isn't a served model; there are "
                f"{known}"
            )
        yield targets[name].members[0]


def _single(model: Model) -> Target:
    return Target(
        model.name, model.checkpoint.card, (model,), is_ensemble=False, revision=model.revision
    )


def _ensemble(name: str, card: cards.Card, members: tuple[Model, ...]) -> Target:
    revision = repository.combined_revision(model.revision for model in members)
    return Target(name, card, members, is_ensemble=True, revision=revision)


def _add(targets: dict[str, Target], target: Target) -> None:
    if target.name in targets:
        raise SettingsError(f"two served models are named '{target.name}'; rename a folder")
    targets[target.name] = target
