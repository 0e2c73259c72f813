"""The renderers of all models that are served, and the process that reads checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.prompts import chunking
from assay.prompts.loader import Loader
from assay.prompts.renderer import Renderer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from assay.errors import AssayError
    from assay.items import Cutting, Source, TokenizedItem
    from assay.prompts.models import Model, Resolved, ResolveSettings
    from assay.prompts.renderer import Looked
    from assay.wakeup_throttle import WakeupThrottle
    from assay.worker_protocol import Inputs


class Renderers:
    """One renderer a model; `stop` them at the end."""

    def __init__(
        self,
        settings: ResolveSettings,
        pace: WakeupThrottle,
        on_restart: Callable[[str], None],
        *,
        timeout_s: float,
    ) -> None:
        """`on_restart` hears of which model a process ended."""
        self._loader = Loader(settings, timeout_s=timeout_s)
        self._pace = pace
        self._on_restart = on_restart
        self._by_model: dict[str, Renderer] = {}
        self._inputs: dict[str, Inputs] = {}  # of models that are loaded

    async def resolve(self, references: Iterable[str]) -> list[Resolved]:
        """Read what the references stand for, and be ready to render for it.

        Raises:
            CheckpointError: One can't be used.
        """
        await self._loader.__aenter__()
        targets = [await self._loader.resolve(reference) for reference in references]
        models = [model for target in targets for model in target.models]
        await self._loader.begin_to_render(models)
        self._by_model = {
            model.name: Renderer(model, self._loader, self._pace, self._on_restart)
            for model in models
        }
        return targets

    async def stop(self) -> None:
        """Render nothing more, and end every process."""
        self.cancel()
        await self._loader.__aexit__()

    def cancel(self) -> None:
        """Render nothing more."""
        for renderer in self._by_model.values():
            renderer.stop()

    @property
    def overdue(self) -> list[str]:
        """The models for which a round takes too long."""
        return [name for name, renderer in self._by_model.items() if renderer.is_overdue]

    def pid(self, model: str) -> int | None:
        """Return the id of the process that renders for a model, while there is one."""
        return self._by_model[model].pid

    def hold_to(self, model: str, inputs: Inputs, *, leaves_cores: bool) -> None:
        """Take no other ids for a model than it does; tokenize on one core, if it is so."""
        self._inputs[model] = inputs
        self._by_model[model].hold_to(inputs, leaves_cores=leaves_cores)

    async def render(
        self, models: Sequence[Model], sources: Sequence[Source], cutting: Cutting, caller: str
    ) -> list[list[TokenizedItem | AssayError]]:
        """Render items for models, once for those whose templates are equal; rows are items."""
        rendered: dict[tuple[str, Inputs], list[TokenizedItem | AssayError]] = {}
        keys = [(model.template_key, self._inputs_of(model)) for model in models]
        size = sum(map(chunking.estimate, sources))
        for model, key in zip(models, keys, strict=True):
            if key not in rendered:
                rendered[key] = await self._by_model[model.name].render(
                    sources, cutting, size=size, caller=caller
                )
        columns = [rendered[key] for key in keys]
        return [list(row) for row in zip(*columns, strict=True)]

    async def look(
        self, model: Model, sources: Sequence[Source], cutting: Cutting, caller: str
    ) -> list[Looked | AssayError]:
        """Render items for a model, with their texts and tokens."""
        size = sum(map(chunking.estimate, sources))
        return await self._by_model[model.name].look(sources, cutting, size=size, caller=caller)

    def _inputs_of(self, model: Model) -> Inputs:
        """Return what a model reads: as it was loaded, or by its config.json."""
        return self._inputs.get(model.name, model.facts.inputs)
