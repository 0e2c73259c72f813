"""How a model may run, decided once: by its own eager forward pass on a sample.

Through which attention it is packed, or whether it is padded; whether runs may share a prefix and
it may be kept; what of its last layer is computed, and whether its blocks are compiled. A path
whose scores disagree is never used, and a model that none can compute is refused.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from assay.engine import (
    activations,
    checkpoint,
    compilation,
    faults,
    gpu_kernels,
    graphs,
    last_layer,
    products,
    quantization,
    transfer,
    upcasting,
)
from assay.engine.attention import interface
from assay.engine.block_cache import BlockCache
from assay.engine.fused import fusion
from assay.errors import CheckpointError
from assay.worker_protocol import PrefixBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.engine.model_runner import ModelRunner
    from assay.engine.quantization import Quantizer
    from assay.engine.sample import Sample
    from assay.worker_protocol import Attention

# The sample's scores may differ by rounding only: a few units in the last place of the dtype,
# through every layer. A wrong mask, position or head is off by orders of magnitude more.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-1, torch.float16: 2e-2}
_TOLERANCE_OF_ITSELF = 1e-5  # in float32, between a trunk and the same one run another way
_UNITS = 4  # in the last place, of scores in 16 bits beside float32
_LONGEST_WINDOW = 40_000  # tokens, whose end is tried
_MOST_BLOCKS = 32_768  # each costs the front some memory, too
_FLASH = "assay-varlen"  # whose bits are torch's matter
_COMPARED = 32  # sequences beside the sample's, so that their order means something


@dataclass(frozen=True, slots=True)
class Trial:
    """By how much a path's scores differ; by infinity where it can't run, and what kept it."""

    gap: float
    obstacle: str = ""

    def reason(self, consequence: str) -> str:
        """Say why the path isn't taken."""
        return self.obstacle or f"its scores would {consequence} by {self.gap:.2g}"


@torch.inference_mode()
def verify(
    runner: ModelRunner,
    *,
    compiled: bool = False,
    attention: Attention = "auto",
    quantizer: Quantizer | None = None,
    fused: bool = False,
    invariant: bool = False,
) -> None:
    """Let a runner take the path that equals the model's own eager forward pass on a sample.

    With `compiled` what a C++ compiler must make first may be used. `attention` says the only way
    in which it may attend, unless its card wants it padded. A `quantizer` works once the path is
    known; from there on scores are compared with the quantized model's own. On a GPU `fused` lets
    kernels of ours compute between its products, and `invariant` wants a score's bits not to depend
    on the batch; a CPU has no need of either.

    Raises:
        CheckpointError: No path does, or the one that was asked for doesn't; or it has nothing to
            quantize, or can't be invariant.
    """
    sample = runner.sample()
    expected = own_scores(runner, sample) if runner.expected is None else runner.expected
    if not expected.isfinite().all():
        raise CheckpointError(
            f"{type(runner.model).__name__}: the model's own forward pass gives NaN or infinity; "
            f"its weights are damaged, or {str(runner.dtype).removeprefix('torch.')} is too "
            "narrow for them"
        )
    exact, bound = expected, _tolerance(runner, expected)
    if is_looked_at_closely(runner) and runner.expected is None:
        exact, bound = _measured(runner, sample, expected, bound)
    # The readout has the pooler; the trunk would run it on every forward pass for nothing.
    if getattr(runner.model.base_model, "pooler", None) is not None:
        runner.model.base_model.pooler = None
    if runner.device.type == "cpu":
        _lay_out(runner, invariant=invariant)
    runner.install()
    ways = _attentions(runner, attention, compiled=compiled, invariant=invariant)
    gap = _choose(runner, sample, exact, bound, attention, ways, compiled=compiled)
    class_position = runner.readout.position
    if runner.card_position is not None:
        runner.readout = replace(runner.readout, position=runner.card_position)
    if quantizer is not None:
        exact, gap = _quantize(runner, sample, quantizer), 0.0
    if invariant:
        _make_invariant(runner, sample, fused=fused)
    if fused and runner.forward == "packed":
        _fuse(runner, sample)
    if runner.forward == "packed":
        is_last = class_position == runner.readout.position == "last"
        runner.shares_prefixes = is_last and _may_share(runner, sample, exact, gap)
        _narrow(runner, sample)


@torch.inference_mode()
def compile_blocks(runner: ModelRunner) -> None:
    """Compile the trunk's blocks, if their scores stay what they are."""
    sample = runner.sample().alone()
    before = torch.from_numpy(runner.score(sample)).float()
    compilation.compile_blocks(runner.model.base_model)
    trial = _trial(runner, sample, before, doing="compile its blocks")
    bound = tolerance_of_itself(runner, before)
    if runner.quantized is not None:  # a state that moves in its last place may round otherwise
        bound = max(bound, runner.quantized.largest)
    runner.is_compiled = trial.gap <= bound
    if not runner.is_compiled:
        compilation.restore_blocks(runner.model.base_model)
        runner.warnings.append(f"it runs uncompiled: {trial.reason('move')}")


@torch.inference_mode()
def keep_prefixes(runner: ModelRunner, memory: int) -> None:
    """Keep what batches begin with, of each adapter's in at most so many bytes, if scores stay."""
    sample = runner.sample()
    if not runner.shares_prefixes or not sample.blocks:
        return
    before = torch.from_numpy(runner.score(sample.pair())).float()
    first, then = sample.continued()
    tried = runner.block_cache = BlockCache(sample.blocks * runner.adapters)
    runner.score(first)
    trial = _trial(runner, then, before)
    runner.block_cache = None
    if trial.gap > tolerance_of_itself(runner, before):
        runner.warnings.append(f"it keeps no prefixes: {trial.reason('move')}")
    elif blocks := min(memory // tried.block_bytes, _MOST_BLOCKS):
        runner.block_cache = BlockCache(blocks * runner.adapters)


@torch.inference_mode()
def capture_graphs(runner: ModelRunner, capture: graphs.Capture = graphs.captured) -> None:
    """Capture a GPU's small passes, if scores stay what they are; else launch them as ever."""
    if runner.attention != _FLASH or runner.readout.position == "mean":
        return
    made = graphs.Graphs(runner.states, runner.device, runner.block_cache)
    ids = np.concatenate(runner.sample().sequences)
    for rows in graphs.ROWS:
        if rows > (runner.max_tokens or rows):
            break
        batch = PrefixBatch.unshared([np.resize(ids, size) for size in (rows // 2, rows // 4, 3)])
        before = torch.from_numpy(runner.score(batch)).float()
        try:
            made.capture(rows, capture)
        except (RuntimeError, ValueError, TypeError) as error:
            _check_device(runner.device, error)
            why = f"they couldn't be captured: {type(error).__name__}"
            runner.warnings.append(f"small batches are launched kernel by kernel, slower: {why}")
            return
        runner.graphs = made
        trial = _trial(runner, batch, before, doing="replay them")
        runner.graphs = None
        if trial.gap > tolerance_of_itself(runner, before):
            why = trial.reason("move")
            runner.warnings.append(f"small batches are launched kernel by kernel, slower: {why}")
            return
    runner.graphs = made


def _check_device(device: torch.device, error: Exception) -> None:
    """Raise what ended a capture if it broke the device, which it says in any case."""
    try:
        torch.zeros(1, device=device).item()
    except RuntimeError:
        raise error from None


def is_looked_at_closely(runner: ModelRunner) -> bool:
    """Return whether attention is tried by itself, and scores in 16 bits are held against float32.

    On a GPU, where kernels are the device's own and both take a moment.
    """
    return bool(runner.device.type == "cuda")


def tolerance_of_itself(runner: ModelRunner, before: torch.Tensor) -> float:
    """Return by how much the trunk's own scores may move when it shares, keeps or compiles."""
    is_exact = runner.dtype == torch.float32
    return _TOLERANCE_OF_ITSELF if is_exact else _tolerance(runner, before)


def _choose(
    runner: ModelRunner,
    sample: Sample,
    expected: torch.Tensor,
    bound: float,
    asked: Attention,
    ways: Sequence[str],
    *,
    compiled: bool,
) -> float:
    """Take the first path whose scores are within a bound; return by how much they differ.

    Raises:
        CheckpointError: There is none.
    """
    is_told = asked != "auto" and runner.card_forward != "padded"
    trials: dict[str, Trial] = {}
    obstacles: list[str] = []
    for attention in ways:
        runner.forward = "padded" if attention == "eager" else "packed"
        runner.attention = attention
        trial = trials[attention] = _trial(runner, sample.alone(), expected, sample.longest)
        why = trial.reason("differ") if trial.gap > bound else _inexactness(runner)
        if not why:
            break
        obstacles.append(f"not {attention.removeprefix('assay-')}: {why}")
    else:
        if is_told:
            raise CheckpointError(
                f"{type(runner.model).__name__} can't run as attention = '{asked}' says "
                f"({'; '.join(obstacles)}); set it to auto, and what can is chosen"
            )
        raise _unserved(runner, trials)
    if not is_told and runner.card_forward != "padded":
        obstacles[:0] = interface.missing(
            runner.device, runner.dtype, runner.attention, compiled=compiled
        )
    if obstacles:
        name = runner.attention.removeprefix("assay-")
        runner.warnings.append(f"attention runs as {name}, slower: {'; '.join(obstacles)}")
    return trials[runner.attention].gap


def _measured(
    runner: ModelRunner, sample: Sample, expected: torch.Tensor, bound: float
) -> tuple[torch.Tensor, float]:
    """Return the model's scores in float32, and how far from these a path's may be.

    Twice as far as its own in 16 bits, and a few of their units in the last place, since of so few
    scores all may happen to be near. Where float32 can't be had, what was given is returned.
    """
    if runner.dtype == torch.float32:
        return expected, bound
    try:
        with upcasting.in_float32(runner.model):
            exact = own_scores(runner, sample)
    except RuntimeError as error:
        if faults.loses_the_device(error):
            raise
        faults.free_memory(error)
        return expected, bound
    if not exact.isfinite().all():
        return expected, bound
    own = float((expected - exact).abs().max())
    units = _UNITS * torch.finfo(runner.dtype).eps * max(1.0, float(exact.abs().max()))
    return exact, 2 * own + units


def _inexactness(runner: ModelRunner) -> str:
    """Return why a packed path isn't taken whose scores are right; nothing where it is."""
    if runner.forward == "padded" or not is_looked_at_closely(runner):
        return ""
    most = min(runner.max_tokens or _LONGEST_WINDOW, _LONGEST_WINDOW)
    try:
        return interface.inexactness(
            runner.attention, runner.kinds, runner.device, runner.dtype, most
        )
    except RuntimeError as error:
        if faults.loses_the_device(error):
            raise
        if not faults.is_out_of_memory(error):
            return f"its attention couldn't be tried: {type(error).__name__}"
        faults.free_memory(error)  # its scores are right; batches may be shorter than windows are
        return ""


def _unserved(runner: ModelRunner, trials: dict[str, Trial]) -> CheckpointError:
    """Return why no path serves the model, by how much the scores of each differ."""
    architecture = type(runner.model).__name__
    tried = ", ".join(f"{name} by {trial.gap:.2g}" for name, trial in trials.items())
    if runner.card_forward is not None:
        return CheckpointError(
            f"{architecture} can't run as the card's trunk.attention = "
            f"'{runner.card_forward}' says ({tried}); leave it out, and what can is chosen"
        )
    return CheckpointError(
        f"{architecture}: scores differ from the model's own forward pass ({tried}); this "
        "architecture can't be served correctly yet"
    )


def _attentions(
    runner: ModelRunner, asked: Attention, *, compiled: bool, invariant: bool
) -> Sequence[str]:
    """Return the ways to try, the fastest first: packed ones, then padded, as the card says.

    Flash attention isn't among those of an `invariant` model unless it was asked for.

    Raises:
        CheckpointError: The one that was asked for doesn't run here.
    """
    device, dtype = runner.device, runner.dtype
    if asked != "auto" and runner.card_forward != "padded":
        if why := interface.obstacle(asked, device, dtype, compiled=compiled):
            raise CheckpointError(f"attention = '{asked}' can't be had: {why}")
        return [f"assay-{asked}"]
    packed = interface.names(device, dtype, compiled=compiled)
    packed = [name for name in packed if not (invariant and name == _FLASH)]
    both = {"packed": packed, "padded": ["eager"]}
    return [*packed, "eager"] if runner.card_forward is None else both[runner.card_forward]


def _may_share(runner: ModelRunner, sample: Sample, expected: torch.Tensor, gap: float) -> bool:
    """Return whether the sample's scores stay what they are where it shares a prefix.

    `gap` is by how much they differ from what is expected where it doesn't.
    """
    bound = gap + tolerance_of_itself(runner, expected)
    # A run is known by its ids alone.
    is_known = runner.readout.head.joined == 1 and sample.segments <= 1
    return is_known and _trial(runner, sample.shared(), expected).gap <= bound


def _quantize(runner: ModelRunner, sample: Sample, quantizer: Quantizer) -> torch.Tensor:
    """Quantize a trunk's linear layers; return the sample's scores, and say how they moved."""
    compared = sample.with_others(_COMPARED)
    before = torch.from_numpy(runner.score(compared))
    kind = quantizer.kind
    if not quantizer.apply(runner.model.base_model):
        raise CheckpointError(
            f"{type(runner.model).__name__} has no linear layers that could be quantized; leave "
            "quantize out"
        )
    after = torch.from_numpy(runner.score(compared))
    change = quantization.Change.between(kind, before, after)
    if not np.isfinite(change.largest):
        raise CheckpointError(f"{type(runner.model).__name__} gives NaN or infinity in {kind}")
    runner.quantized = change
    if quantizer.stored is not None:
        runner.warnings = [said for said in runner.warnings if said != quantizer.stored.note]
    emulated = "; a CPU emulates it" if (kind, runner.device.type) == ("fp8", "cpu") else ""
    runner.warnings.append(f"{change}{emulated}")
    return after[: len(sample.sequences)].float()


def _lay_out(runner: ModelRunner, *, invariant: bool) -> None:
    """Lay out a CPU's weights; say that products depend on the batch, or let them not, if wanted.

    Raises:
        CheckpointError: They do all the same.
    """
    trunk = runner.model.base_model
    compilation.prepack(trunk)
    activations.steady(trunk)
    if runner.dtype == torch.float32 or not compilation.depends_on_rows(trunk):
        return
    if not invariant:
        runner.warnings.append(
            "in its dtype this processor's products sum in another order for few rows than for "
            "many: a score's last bits depend on what shares its batch; 'invariant' mends that, "
            "slower, and so does float32"
        )
        return
    compilation.steady(trunk)
    if compilation.depends_on_rows(trunk):
        raise CheckpointError(
            "invariant can't be had: this processor's products depend on the batch in that dtype; "
            "serve it in float32, or leave it out"
        )


def _make_invariant(runner: ModelRunner, sample: Sample, *, fused: bool) -> None:
    """Let linear layers multiply so that a row's bits don't depend on the batch.

    Raises:
        CheckpointError: They can't here.
    """
    why = products.obstacle(runner.device, runner.dtype)
    if why and runner.device.type == "cpu":  # whose products are so already, or were made so
        return
    before = torch.from_numpy(runner.score(sample.alone())).float()
    if not why:
        others = products.make_invariant(runner.model.base_model)
        trial = _trial(runner, sample.alone(), before)
        if trial.gap > tolerance_of_itself(runner, before):
            why = trial.reason("move")
    if why:
        raise CheckpointError(f"invariant can't be had: {why}; leave it out")
    if runner.forward == "padded":
        others.append("attention in padded batches")
    if runner.attention == _FLASH:
        others.append("flash attention")
    if not fused:
        others.append("layers that aren't fused")
    if others:
        runner.warnings.append(
            f"its bits may depend on the batch all the same: {', '.join(others)}"
        )


def _fuse(runner: ModelRunner, sample: Sample) -> None:
    """Let kernels of ours compute between a trunk's products, if scores stay what they are."""
    if why := gpu_kernels.obstacle(runner.device, runner.dtype, "the kernel of fused layers"):
        if runner.device.type != "cpu":
            runner.warnings.append(f"its layers aren't fused, slower: {why}")
        return
    batch = sample.alone()
    before = torch.from_numpy(runner.score(batch)).float()
    made = fusion.fuse(runner.model.base_model, lambda: runner.launch(batch))
    trial = _trial(runner, batch, before)
    if trial.gap > tolerance_of_itself(runner, before):
        made.undo()
        made.notes = [f"its layers aren't fused, slower: {trial.reason('move')}"]
    runner.warnings += made.notes


def _narrow(runner: ModelRunner, sample: Sample) -> None:
    """Compute of the last layer what is read, if scores stay what they are."""
    if runner.readout.position == "mean":
        return
    batches = [sample.alone()]
    if runner.shares_prefixes:
        batches.append(sample.shared())
    before = [torch.from_numpy(runner.score(batch)).float() for batch in batches]
    bound = tolerance_of_itself(runner, torch.cat(before))
    for drops_queries in (True, False):
        with contextlib.suppress(interface.UnsupportedAttention):
            runner.last_layer = last_layer.LastLayer(
                runner.model.base_model, runner.layers, drops_queries=drops_queries
            )
        if runner.last_layer is None:
            continue
        runner.last_layer.install()
        trials = [_trial(runner, *pair) for pair in zip(batches, before, strict=True)]
        if max(trial.gap for trial in trials) <= bound:
            return
        runner.last_layer.remove()
        runner.last_layer = None


def _tolerance(runner: ModelRunner, expected: torch.Tensor) -> float:
    return _TOLERANCE.get(runner.dtype, 1e-1) * max(1.0, float(expected.abs().max()))


def _trial(
    runner: ModelRunner,
    batch: PrefixBatch,
    expected: torch.Tensor,
    longest: int | None = None,
    *,
    doing: str = "run",
) -> Trial:
    """Run a batch as the runner would now; with `longest` refuse what a longer one would change.

    A device that breaks or has no memory left raises what it raised.
    """
    try:
        runner.attend()
        scores = runner.launch(batch)
    except (
        interface.UnsupportedAttention,
        *(ValueError, TypeError, RuntimeError, LookupError, AttributeError, OSError),
    ) as error:
        if faults.is_fault(error):  # of the device, whatever the path
            raise
        return Trial(float("inf"), f"couldn't {doing}: {type(error).__name__}")
    beyond = [size for size in runner.unheard if longest is not None and size > longest]
    if runner.forward == "packed" and beyond:
        why = f"no layer asks for the {min(beyond)} tokens that its mask lets see"
        return Trial(float("inf"), why)
    scores = scores[:, : expected.shape[1]]  # transformers' class knows no head beside its own
    gap = float((scores - expected.to(scores.device)).abs().max())
    return Trial(gap if np.isfinite(gap) else float("inf"))


@torch.inference_mode()
def own_scores(runner: ModelRunner, sample: Sample) -> torch.Tensor:
    """Return the model's own scores: eager, each sequence alone, no padding."""
    # The head is float32 and the trunk need not be: lift what crosses between them.
    lifts = [
        module.register_forward_pre_hook(_in_float32)
        for module in checkpoint.head_modules(runner.model)
    ]
    try:
        scores = [_alone(runner, sample, ids) for ids in sample.sequences]
    finally:
        for lift in lifts:
            lift.remove()
    numbers = torch.stack(scores)
    return numbers if runner.model.base_model is not runner.model else runner.readout.score(numbers)


def _alone(runner: ModelRunner, sample: Sample, ids: np.ndarray) -> torch.Tensor:
    """Return transformers' own scores of one sequence, or what a card's heads would read."""
    row, segments = transfer.to_device([ids[None], sample.halves(ids)], runner.device)
    outcome = runner.model(
        input_ids=row.long(),
        attention_mask=torch.ones_like(row).long(),
        **runner.token_types(segments),
    )
    if runner.model.base_model is not runner.model:
        logits: torch.Tensor = outcome.logits[0]
        return logits
    ends = np.zeros(1, np.int64), np.array([row.shape[1] - 1])
    return runner.readout.gather(outcome.last_hidden_state[0], *ends)[0]


def _in_float32(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Lift a head module's inputs, as a forward pre-hook."""
    return tuple(state.float() for state in inputs)
