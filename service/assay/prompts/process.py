"""The process that reads checkpoints, and those forked from it that render.

Forked from a `fork_server`, or started as `python -m assay.prompts.process FD`, where FD is its end
of a socket pair. It reads what the front names, and keeps the templates. Then it only forks: a
model's process has its template as it was read, however often it is started again. Templates and
tokenizers are a checkpoint's own: the kernel ends a process that takes too much processor time or
memory, whatever code it is in.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import socket
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from assay import child_process, worker_protocol
from assay.cards import repository
from assay.errors import AssayError, CheckpointError, TemplateRefused, refusing
from assay.prompts import protocol
from assay.prompts.protocol import (
    Defect,
    Fetching,
    Fork,
    Hello,
    Hold,
    Inspect,
    InspectedFrame,
    Outcomes,
    ReadFrame,
    Refusal,
    Render,
    Resolve,
    ResolvedFrame,
    Restore,
    Restored,
)

if TYPE_CHECKING:
    from typing import NoReturn

    from assay.prompts.template import Template

_READING_MEMORY = 8 * 2**30
_MEMORY = 2**30  # beyond what a process has of the template when it begins
_FRAMES = 20
_MOST_SHOWN = 2**22  # characters of several items' texts in one answer
_PARALLEL = "TOKENIZERS_PARALLELISM"
_wanted = os.environ.get(_PARALLEL)  # an operator's word stands


def main() -> None:
    """Serve the socket whose descriptor is the only argument."""
    child_process.follow_the_front()
    import_libraries()
    with socket.socket(fileno=int(sys.argv[1])) as stream:
        serve(stream)


def serve(stream: socket.socket) -> None:
    """Read what the front names, then fork what renders, until it hangs up."""
    child_process.be_called("assay-loader")
    _be_ended_first()
    _limit_memory(_READING_MEMORY)
    repository.fetch_listeners.append(lambda on: stream.sendall(protocol.told(Fetching(on))))
    templates = _read(stream)
    gc.freeze()
    _fork(stream, templates)


def _be_ended_first() -> None:
    """Where the machine runs out of memory, be what the kernel ends: others can go on without."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _limit_memory(more: int) -> None:
    """Let the process have so much more memory of its own than it has, as RLIMIT_DATA counts it."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        most = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def import_libraries() -> None:
    """Import what reads and renders, but not torch: transformers does without."""
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ[_PARALLEL] = "false"  # with threads of its own it couldn't be forked
    gc.disable()
    import transformers  # noqa: PLC0415

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    from transformers import AutoTokenizer  # noqa: F401, PLC0415

    from assay.prompts import resolution  # noqa: F401, PLC0415

    gc.enable()


# --- reading -----------------------------------------------------------------------------------


def _read(stream: socket.socket) -> list[Template]:
    """Read what the front names, until it wants processes that render; return the templates."""
    templates_by_name: dict[str, Template] = {}
    while True:
        match worker_protocol.receive(stream):
            case Resolve() | Inspect() | Restore() as request:
                stream.sendall(_written(_answered(request, templates_by_name)))
            case Fork():
                return list(templates_by_name.values())
            case _:
                child_process.end()


def _written(answer: ResolvedFrame | InspectedFrame | Restored | Refusal) -> bytes:
    try:
        return protocol.told(answer)
    except OverflowError:
        message = "a whole number in its config.json or its card has more than 64 bits"
        return protocol.told(Refusal.of(CheckpointError(message)))


def _answered(
    request: Resolve | Inspect | Restore, templates_by_name: dict[str, Template]
) -> ResolvedFrame | InspectedFrame | Restored | Refusal:
    try:
        return _answer(request, templates_by_name)
    except AssayError as error:
        return Refusal.of(error)
    except MemoryError:
        return Refusal.of(CheckpointError("its files take too much memory to read"))


def _answer(
    request: Resolve | Inspect | Restore, templates_by_name: dict[str, Template]
) -> ResolvedFrame | InspectedFrame | Restored:
    from assay.prompts import resolution  # noqa: PLC0415  slow to import

    match request:
        case Resolve(reference, settings):
            resolved, templates = resolution.resolve(reference, settings)
            templates_by_name |= templates
            return ResolvedFrame.of(resolved)
        case Inspect(reference, settings):
            return InspectedFrame.of(resolution.inspect(reference, settings))
        case Restore(model, settings, like):
            if like is not None:
                templates_by_name[model.name] = templates_by_name[like]
                return Restored(model.template_key)
            with refusing(model.checkpoint.folder):
                template = resolution.template_of(model.checkpoint, settings)
                key = resolution.template_key(model.checkpoint, template)
            templates_by_name[model.name] = template
            return Restored(key)


# --- forking -----------------------------------------------------------------------------------


def _fork(stream: socket.socket, templates: list[Template]) -> NoReturn:
    """Start a process for the template whose place is sent, on the stream that comes with it."""

    def run(place: bytes, streams: list[socket.socket]) -> None:
        (theirs,) = streams
        _begin(theirs)
        _render(theirs, templates[protocol.PLACE.unpack(place)[0]])

    child_process.fork_for_each(stream, protocol.PLACE.size, run)


def _begin(stream: socket.socket) -> None:
    """Be a process within limits, and say so."""
    child_process.be_called("assay-renderer")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(_MEMORY)
    stream.sendall(protocol.told(Hello(os.getpid())))


# --- rendering ---------------------------------------------------------------------------------


def _render(stream: socket.socket, template: Template) -> None:
    """Render what the front sends, until it hangs up."""
    while True:
        match worker_protocol.receive(stream):
            case Render() as request:
                with child_process.processor_limit(request.processor_s):
                    answer = protocol.told(_rendered(template, request))
                stream.sendall(answer)
            case Hold(inputs, leaves_cores):
                template.token_ids.hold_to(inputs)
                os.environ[_PARALLEL] = _wanted or ("false" if leaves_cores else "true")
            case _:
                return


def _rendered(template: Template, request: Render) -> Outcomes | Defect:
    try:
        outcomes = template.render_all(request.sources, request.cutting)
        items: list[ReadFrame | Refusal] = []
        shown = 0
        for outcome in outcomes:
            if isinstance(outcome, AssayError):
                items.append(Refusal.of(outcome))
                continue
            tokens = template.tokenizer.tokens(outcome.ids.tolist()) if request.looks else None
            items.append(ReadFrame.of(outcome, tokens, looks=request.looks))
            shown += len(outcome.text or "") if request.looks else 0
            if shown > _MOST_SHOWN and len(outcomes) > 1:
                return Defect("TooMuch", [])  # the front asks for each by itself
        return Outcomes(items)
    except (RecursionError, MemoryError) as error:
        if len(request.sources) == 1:
            return Outcomes([Refusal.of(_exhausted(error))])
        return Defect(type(error).__name__, [])
    except Exception as error:  # noqa: BLE001  the front reports it
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
        where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return Defect(type(error).__name__, where)


def _exhausted(error: Exception) -> TemplateRefused:
    limited = "memory" if isinstance(error, MemoryError) else "nested calls"
    return TemplateRefused(
        f"the model's chat template or tokenizer takes too much of {limited} for the item"
    )


if __name__ == "__main__":
    main()
    child_process.end()
