"""The steps of `loadtest.gpu`: each returns whether it passed, and its numbers.

Models have random weights: speed doesn't depend on what weights hold. Operations are counted as in
`roofline`, over the tokens that are computed, and the matrix rate is the first step's.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import statistics
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, Qwen3Config

from assay import worker_protocol
from assay.cards.card import Card
from assay.engine import (
    batch_loop,
    device_events,
    model_runner,
    packing,
    products,
    readout,
    verification,
)
from assay.engine.attention import blocks, exactness, interface, native, tree, varlen
from assay.engine.attention.pattern import LayerKind, Pattern
from assay.engine.block_cache import BlockCache
from assay.errors import WorkerError
from assay.scheduling.planner import ModelQueue, plan
from assay.scheduling.policy import PREFETCH_PART, WARM_UP
from assay.scheduling.prefix_cache import PrefixCache
from assay.scheduling.work_item import RequestFlow, WorkItem
from assay.scheduling.workers import Worker
from assay.worker_protocol import BLOCK_TOKENS, Batch, Done, Ending, PrefixBatch
from loadtest import checkpoint, server
from loadtest.roofline import Operations
from loadtest.texts import Generated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from transformers import PreTrainedModel

    from assay.engine.attention.pattern import AttentionBackend
    from assay.scheduling.planner import Plan

_MATRIX_RATE, _COPY_RATE = 700e12, 3.5e12  # below, the machine is slow and shares say little
_SHARES = {"0.6b": 0.4, "8b": 0.7}  # of the matrix rate, that distinct items must reach
_SINGLE_MS = {"0.6b": 4.0, "8b": 15.0}
_NOT_RUN = {"passed": None, "why": "not run: no GPU"}
_BACKENDS: dict[str, AttentionBackend] = {
    "native": native.attend,
    "varlen": varlen.attend,
    "tree": tree.attend,
    "blocks": blocks.attend,
}
# heads, heads of keys, width; window, cap: each of the kernels' ways once, for each is compiled.
_KINDS = (
    ((8, 2, 64), True, None, None),
    ((9, 3, 80), True, None, None),
    ((8, 8, 96), True, None, None),
    ((32, 8, 128), True, None, None),
    ((8, 4, 256), True, None, None),
    ((16, 8, 128), True, 1, None),
    ((16, 8, 128), True, 1500, None),
    ((8, 4, 256), True, 1000, 50.0),
    ((16, 8, 128), True, None, 5.0),
    ((12, 12, 64), False, None, None),
    ((12, 12, 64), False, 64, None),
)


class Bench:
    """The device, and the models that steps share."""

    def __init__(self, *, is_dry: bool) -> None:
        self.is_dry = is_dry
        self.device = torch.device("cpu" if is_dry else "cuda:0")
        self.dtype = torch.float32 if is_dry else torch.bfloat16
        self._runners: dict[str, model_runner.ModelRunner] = {}

    def model(self, size: str) -> PreTrainedModel:
        """Return a model of random weights, the same on each call; its head is in float32."""
        torch.manual_seed(0)
        config = Qwen3Config(
            **checkpoint.SIZES["tiny" if self.is_dry else size],
            num_labels=1,
            max_position_embeddings=checkpoint.MAX_TOKENS,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=None,
            use_cache=False,
        )
        with torch.device(self.device):
            model = AutoModelForSequenceClassification.from_config(
                config, dtype=self.dtype, attn_implementation="eager"
            )
        model.eval().requires_grad_(False)
        model.score.float()
        return model

    def runner(self, size: str) -> model_runner.ModelRunner:
        """Return a verified model that keeps prefixes, made on the first call."""
        if size not in self._runners:
            self._runners[size] = self.verified(size, fused=True)
            verification.keep_prefixes(self._runners[size], 1 << (22 if self.is_dry else 30))
            verification.capture_graphs(self._runners[size])
        return self._runners[size]

    def verified(
        self, size: str, *, fused: bool = False, invariant: bool = False
    ) -> model_runner.ModelRunner:
        """Return a verified model that computes by these kernels of ours."""
        model = self.model(size)
        runner = model_runner.ModelRunner(model, readout.own(model))
        verification.verify(runner, fused=fused, invariant=invariant)
        return runner

    def scaled(self, count: int) -> int:
        """Return a count of tokens or items, a sixteenth of it in a dry run."""
        return max(2, count // 16) if self.is_dry else count

    def seconds(self, function: Callable[[], object], repeats: int = 5) -> float:
        """Return the median of the device's time, after a call that warms up."""
        function()
        taken = []
        for _ in range(repeats):
            begin = device_events.record(self.device)
            function()
            end = device_events.record(self.device)
            end.wait()
            taken.append(end.seconds_since(begin))
        return statistics.median(taken)


def run(step: str, bench: Bench, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a step finds; `known` is what others found."""
    return _STEPS[step](bench, known)


def _machine(bench: Bench, _: Mapping[str, Any]) -> dict[str, Any]:
    size = 256 if bench.is_dry else 8192
    left, right = (_normal(bench, size, size) for _ in range(2))
    rate = 2 * size**3 / bench.seconds(lambda: left @ right, 10)
    source = torch.ones(1 << (20 if bench.is_dry else 32), dtype=torch.uint8, device=bench.device)
    copied = torch.empty_like(source)
    copy_rate = 2 * source.numel() / bench.seconds(lambda: copied.copy_(source))
    is_fast = rate >= _MATRIX_RATE and copy_rate >= _COPY_RATE
    name = "CPU" if bench.is_dry else torch.cuda.get_device_name(bench.device)
    return {
        "passed": True,
        "device": name if is_fast or bench.is_dry else f"{name} (slow machine)",
        "tflops": round(rate / 1e12, 3),
        "copy_tb_s": round(copy_rate / 1e12, 3),
        **{package: version(package) for package in ("torch", "transformers", "numpy")},
        "known": {"rate": rate},
    }


def _attention(bench: Bench, _: Mapping[str, Any]) -> dict[str, Any]:
    worst: dict[str, float] = {}
    skipped: list[str] = []
    passed = True
    kinds = _KINDS[:3] if bench.is_dry else _KINDS
    for name, (shape, causal, window, cap) in itertools.product(_backends(bench), kinds):
        if cap is not None and name == "varlen":
            continue  # it can't, and says so
        heads, kv_heads, width = shape
        kind = LayerKind(Pattern(width**-0.5, causal, window, cap), heads, kv_heads, width, width)
        try:
            error = exactness.largest_error(_BACKENDS[name], kind, bench.device, bench.dtype)
        except (RuntimeError, ValueError) as failure:
            skipped.append(f"{name} {shape}: {failure}"[:200])
            continue
        worst[name] = max(worst.get(name, 0.0), error)
        passed &= error <= interface.limit(f"assay-{name}", bench.dtype)
    return {
        "passed": passed and not skipped,
        **{name: float(f"{error:.2g}") for name, error in worst.items()},
        "skipped": skipped,
    }


def _bits(bench: Bench, _: Mapping[str, Any]) -> dict[str, Any]:
    """Compare one sequence's attention alone with that in company, shared and kept."""
    moved: dict[str, list[str]] = {}
    for name in _backends(bench):
        moved[name] = [placing for placing, same in _placings(bench, _BACKENDS[name]) if not same]
    state = _normal(bench, 200, 64).float()
    head = torch.nn.Linear(64, 8, device=bench.device)
    heads = readout.Readout("last", readout.OwnHead((head,), (False,)))
    whole = heads.score(state)
    is_steady = all(torch.equal(heads.score(state[:n])[0], whole[0]) for n in range(1, 200, 13))
    weight = _normal(bench, 512, 512)
    rows = _normal(bench, 4096, 512)
    linear = torch.nn.Linear(512, 512, bias=False).requires_grad_(requires_grad=False)
    linear.weight.data = weight
    equal = {"the library's": _equal_products(linear, rows)}
    if not bench.is_dry:
        equal["ours"] = _equal_products(products.InvariantLinear(linear), rows)
    kernels = [name for name in moved if name != "varlen"]
    are_equal = equal.get("ours", len(_ROW_COUNTS)) == len(_ROW_COUNTS)
    return {
        "passed": is_steady and are_equal and not any(moved[name] for name in kernels),
        "moved": {name: placings for name, placings in moved.items() if placings},
        "heads_equal": is_steady,
        "row_counts_with_the_products_of_16": {
            whose: f"{count} of {len(_ROW_COUNTS)}" for whose, count in equal.items()
        },
    }


def _equal_products(linear: torch.nn.Module, rows: torch.Tensor) -> int:
    """Return at how many numbers of rows the first ones have the bits that they have at 16."""
    found = [linear(rows[:count])[:16] for count in _ROW_COUNTS]
    return sum(torch.equal(product, found[0]) for product in found)


_ROW_COUNTS = (16, 32, 64, 128, 256, 512, 1024, 4096)


def _placings(bench: Bench, attend: AttentionBackend) -> list[tuple[str, bool]]:
    """Return where a sequence of 700 tokens has the bits that it has alone."""
    length, pattern = (70 if bench.is_dry else 700), Pattern(0.1, causal=True)
    shape = (16, 8, 128)
    own = _tensors(bench, length, shape)
    alone = attend(*_filled(own), _packed([length]), pattern)[:length]
    random = np.random.default_rng(0)
    found = []
    for shuffle in range(2 if bench.is_dry else 20):
        others = random.integers(1, length, 5).tolist()
        before, behind = sum(others[:3]), sum(others[3:])
        parts = [_tensors(bench, n, shape, seed=shuffle + 1) for n in (before, behind)]
        joined = [torch.cat([a, x, b], 1) for a, x, b in zip(parts[0], own, parts[1], strict=True)]
        out = attend(*_filled(joined), _packed([*others[:3], length, *others[3:]]), pattern)
        found.append((f"shuffle {shuffle}", torch.equal(out[before : before + length], alone)))
    long = _tensors(bench, 4 * length, shape, seed=99)
    joined = [torch.cat([a, x], 1) for a, x in zip(long, own, strict=True)]
    out = attend(*_filled(joined), _packed([4 * length, length]), pattern)
    found.append(("beside a long one", torch.equal(out[4 * length : 5 * length], alone)))
    stranger = _tensors(bench, 9, shape, seed=100)
    for prefix in (1, 16, 37, length // 2):
        joined = [
            torch.cat([x[:, :prefix], y, x[:, prefix:]], 1)
            for x, y in zip(own, stranger, strict=True)
        ]
        packed = _packed([prefix, 9, length - prefix], [-1, 0, 0])
        out = attend(*_filled(joined), packed, pattern)
        same = torch.cat([out[:prefix], out[prefix + 9 : length + 9]])
        found.append((f"behind a shared {prefix}", torch.equal(same, alone)))
    held = 4 * BLOCK_TOKENS
    layer = BlockCache(4).layer(0, own[1], own[2])
    layer.keys[:held], layer.values[:held] = (x[:, :held].transpose(0, 1) for x in own[1:])
    packed = packing.pack(
        replace(
            PrefixBatch.unshared([np.zeros(length - held, np.int32)]),
            lengths=np.array([held, length - held], np.int32),
            parents=np.array([-1, 0], np.int32),
            reads=np.array([1], np.int32),
            held=1,
            cached_blocks=np.arange(4, dtype=np.int32),
        )
    )
    out = attend(*_filled([x[:, held:] for x in own]), packed, pattern, layer)
    found.append(("behind a kept one", torch.equal(out[: length - held], alone[held:])))
    return found


def _fidelity(bench: Bench, _: Mapping[str, Any]) -> dict[str, Any]:
    """Compare scores with the same weights' in float32, and transformers' eager with them."""
    runner = bench.runner("0.6b")
    random = np.random.default_rng(1)
    items = [_ids(random, bench, int(n)) for n in random.integers(20, 400, bench.scaled(64))]
    fast = runner.score(PrefixBatch.unshared(items))[:, 0]
    eager = bench.model("0.6b")
    rounded = _reference(eager, items, bench.device)
    exact = _reference(eager.float(), items, bench.device)
    gap, eager_gap = (float(np.abs(scores - exact).max()) for scores in (fast, rounded))
    bound = 1e-4 if bench.is_dry else 2 * eager_gap
    is_fast = bench.is_dry or runner.attention != "assay-blocks"
    return {
        "passed": gap <= bound and is_fast,
        "attention": runner.attention.removeprefix("assay-"),
        "gap": float(f"{gap:.3g}"),
        "eager_gap": float(f"{eager_gap:.3g}"),
        "warnings": runner.warnings,
    }


def _launches(bench: Bench, _: Mapping[str, Any]) -> dict[str, Any]:
    """Launch every kind of batch where torch raises when the host would wait."""
    if bench.is_dry:
        return _NOT_RUN
    runner = bench.runner("0.6b")
    random = np.random.default_rng(2)
    batches = [
        PrefixBatch.unshared([_ids(random, bench, 300) for _ in range(8)]),
        PrefixBatch.unshared([_ids(random, bench, 300)]),
        _group(random, bench, 1, 8, prefix=200, tail=100)[0],
        *(one.prefix_batch for one in _planned(random, bench, runner, 6)),
    ]
    for batch in batches:  # kernels are compiled, memory is taken
        runner.score(batch)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            runner.launch(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"passed": True, "batches": len(batches)}


def _rate(bench: Bench, known: Mapping[str, Any], size: str) -> dict[str, Any]:
    """Measure the share of the matrix rate, for distinct items and for groups."""
    runner = bench.runner(size)
    operations = Operations.of_model(runner.model)
    random = np.random.default_rng(3)
    distinct = PrefixBatch.unshared([_ids(random, bench, 400) for _ in range(bench.scaled(64))])
    one, items = _group(random, bench, 1, 64, prefix=1000, tail=400)
    many, _ = _group(random, bench, 64, 8, prefix=250, tail=100)
    found, shares = {}, {}
    for name, batch in {"distinct": distinct, "1x64": one, "64x8": many}.items():
        seconds = bench.seconds(lambda batch=batch: runner.launch(batch))
        positions = packing.pack(batch).positions[: batch.tokens]
        shares[name] = operations.computed(positions) / seconds / known.get("rate", 1e12)
        found[f"{name}_ms"] = round(1e3 * seconds, 2)
        found[f"{name}_share"] = round(shares[name], 3)
    passed = shares["distinct"] >= _SHARES[size] and all(
        shares[name] >= 0.9 * shares["distinct"] for name in ("1x64", "64x8")
    )
    if size == "0.6b":
        found["times_padded"] = round(1e3 * _padded_s(bench, items) / found["1x64_ms"], 2)
        passed &= found["times_padded"] >= 3
    return {"passed": passed or bench.is_dry, **found}


def _layers(bench: Bench, _: Mapping[str, Any]) -> dict[str, Any]:
    """Measure a batch and an item by layers as they are, fused, captured, and invariant.

    The last kind's scores of single items are held against those of all together, to the bit.
    """
    random = np.random.default_rng(9)
    items = [_ids(random, bench, 400) for _ in range(bench.scaled(64))]
    batch, few = PrefixBatch.unshared(items), PrefixBatch.unshared(items[:1])
    found: dict[str, Any] = {}
    runners = {
        "plain": bench.verified("0.6b"),
        "fused": bench.verified("0.6b", fused=True),
        "invariant": bench.verified("0.6b", fused=True, invariant=True),
    }
    for name, runner in runners.items():
        found[f"{name}_ms"] = round(1e3 * bench.seconds(lambda r=runner: r.launch(batch)), 2)
        found[f"{name}_single_ms"] = round(1e3 * bench.seconds(lambda r=runner: r.launch(few)), 2)
        if said := [one for one in runner.warnings if "fused" in one or "bits" in one]:
            found[f"{name}_warnings"] = said
    runner = runners["fused"]
    verification.capture_graphs(runner)
    found["captured_single_ms"] = round(1e3 * bench.seconds(lambda: runner.launch(few)), 2)
    found["is_captured"] = runner.graphs is not None
    runner = runners["invariant"]
    together = runner.score(batch)
    alone = [runner.score(PrefixBatch.unshared([ids])) for ids in items[:16]]
    moved = sum(not np.array_equal(one[0], together[row]) for row, one in enumerate(alone))
    found["scores_moved"] = f"{moved} of {len(alone)}"
    is_faster = bench.is_dry or found["fused_ms"] < found["plain_ms"]
    return {"passed": not moved and is_faster, **found}


def _single(bench: Bench, _: Mapping[str, Any]) -> dict[str, Any]:
    """Measure one item of 400 tokens, from its ids to its score on the host."""
    found: dict[str, Any] = {}
    for size in _SINGLE_MS:
        runner = bench.runner(size)
        random = np.random.default_rng(4)
        times = []
        for _repeat in range(bench.scaled(200)):
            batch = PrefixBatch.unshared([_ids(random, bench, 400)])
            begin = time.perf_counter()
            runner.score(batch)
            times.append(1e3 * (time.perf_counter() - begin))
        found[f"p50_ms_{size}"] = round(statistics.median(times), 2)
    passed = all(found[f"p50_ms_{size}"] <= most for size, most in _SINGLE_MS.items())
    return {"passed": passed or bench.is_dry, **found}


def _batches(bench: Bench, _: Mapping[str, Any]) -> dict[str, Any]:
    """Send random batches over few blocks, so that one always waits while one runs."""
    runner = bench.runner("0.6b")
    kept, runner.block_cache = runner.block_cache, BlockCache(_FEW_BLOCKS)
    try:
        planned = _planned(np.random.default_rng(5), bench, runner, bench.scaled(300))
        answers, gaps = _launched_ahead(runner, [one.prefix_batch for one in planned])
    finally:
        runner.block_cache = kept
    expected = [
        runner.score(PrefixBatch.unshared([work.ids for work in one.works]))[:, 0]
        for one in planned
    ]
    moved = max(
        float(np.abs(answer - scores).max())
        for answer, scores in zip(answers, expected, strict=True)
    )
    largest = max(float(np.abs(scores).max()) for scores in expected)
    bound = 1e-5 if bench.is_dry else 8 * torch.finfo(bench.dtype).eps * max(1.0, largest)
    gap_ms = 1e3 * statistics.median(gaps)
    return {
        "passed": moved <= bound and (bench.is_dry or gap_ms <= 1),
        "batches": len(planned),
        "shared_tokens": sum(one.shared_tokens for one in planned),
        "moved": float(f"{moved:.3g}"),
        "gap_ms": round(gap_ms, 3),
        "longest_gap_ms": round(1e3 * max(gaps), 3),
    }


_FEW_BLOCKS = 256


def _launched_ahead(
    runner: model_runner.ModelRunner, batches: Sequence[PrefixBatch]
) -> tuple[list[np.ndarray], list[float]]:
    """Return each batch's scores, and the device's time between one's end and the next's begin."""
    events: list[device_events.Event] = []
    record = runner.event

    def recorded() -> device_events.Event:
        events.append(record())
        return events[-1]

    ours, theirs = socket.socketpair()
    free = threading.Semaphore(2)
    answers: list[np.ndarray] = []

    def send(message: worker_protocol.FromWorker) -> None:
        if isinstance(message, Done):
            answers.append(message.numbers[:, 0])
            free.release()
        elif not isinstance(message, Ending):
            raise TypeError(message)

    def feed() -> None:
        for number, batch in enumerate(batches):
            free.acquire()
            ours.sendall(b"".join(worker_protocol.encode(Batch(number, "m", batch, PREFETCH_PART))))
        ours.shutdown(socket.SHUT_WR)

    runner.event = recorded  # type: ignore[method-assign]
    try:
        with ours, theirs, ThreadPoolExecutor(1) as pool:
            feeding = pool.submit(feed)
            batch_loop.serve({"m": runner}, theirs, send)
            feeding.result()
    finally:
        del runner.event
    begins, ends = events[::3], events[2::3]  # between them, where the end is near
    pairs = zip(ends[:-1], begins[1:], strict=True)
    return answers, [begin.seconds_since(end) for end, begin in pairs]


def _memory_full(bench: Bench, _: Mapping[str, Any]) -> dict[str, Any]:
    """Launch what doesn't fit, then what does."""
    if bench.is_dry:
        return _NOT_RUN
    runner = bench.runner("0.6b")
    random = np.random.default_rng(6)
    small = PrefixBatch.unshared([_ids(random, bench, 300)])
    expected = runner.score(small)
    free, _total = torch.cuda.mem_get_info(bench.device)
    ballast = torch.empty(max(0, free - (2 << 30)), dtype=torch.uint8, device=bench.device)
    large = PrefixBatch.unshared([_ids(random, bench, 4000) for _ in range(256)])
    failed = batch_loop.launch(runner, Batch(0, "m", large, PREFETCH_PART), lambda _: None)
    begin = time.perf_counter()
    again = runner.score(small)
    seconds = time.perf_counter() - begin
    del ballast
    torch.cuda.empty_cache()
    is_told = isinstance(failed, worker_protocol.Failed) and failed.out_of_memory
    return {
        "passed": is_told and seconds < 2 and bool((again == expected).all()),
        "said": getattr(failed, "reason", "nothing failed"),
        "right_again_s": round(seconds, 3),
        "equal": bool((again == expected).all()),
    }


def _device_lost(bench: Bench, _: Mapping[str, Any]) -> dict[str, Any]:
    """Give a worker process an id that the model doesn't know, which breaks the device for it."""
    if bench.is_dry:
        return _NOT_RUN
    with tempfile.TemporaryDirectory() as made:
        checkpoint.write(Path(made), "tiny")
        return asyncio.run(_lose_the_device(Path(made)))


async def _lose_the_device(folder: Path) -> dict[str, Any]:
    spec = worker_protocol.ModelSpec("m", folder, Card(), "auto", 1024, None)
    start = worker_protocol.Start("cuda:0", None, "auto", (spec,), replace(WARM_UP, sizes=(1024,)))
    good = PrefixBatch.unshared([np.arange(1, 40, dtype=np.int32)])
    bad = replace(good, ids=good.ids + 1_000_000)
    answers = []
    ended = False
    for batches in ((good, bad), (good,)):
        async with Worker(start) as worker:
            while not isinstance(message := await worker.receive(), worker_protocol.Loaded):
                if isinstance(message, worker_protocol.Refused):
                    return {"passed": False, "why": message.message}
            for number, batch in enumerate(batches):
                await worker.send(Batch(number, "m", batch, PREFETCH_PART))
                try:
                    while not isinstance(said := await worker.receive(), Done):
                        pass
                    answers.append(said.data)
                except WorkerError:
                    ended = True
    return {
        "passed": ended and len(answers) == 2 and answers[0] == answers[1],
        "process_ended": ended,
        "answers_equal": len(set(answers)) == 1,
    }


def _serve(bench: Bench, known: Mapping[str, Any]) -> dict[str, Any]:
    """Score over HTTP what is then scored in this process."""
    items = bench.scaled(2000)
    texts = Generated(seed=7)
    random = texts.random(0)
    pairs = [texts.pair(random, 20, 5 if bench.is_dry else 170) for _ in range(items)]
    bodies = [
        json.dumps({"inputs": [asdict(pair) for pair in pairs[begin : begin + 10]]}).encode()
        for begin in range(0, items, 10)
    ]
    with tempfile.TemporaryDirectory() as made:
        checkpoint.write(Path(made), "tiny" if bench.is_dry else "0.6b")
        dtype = "float32" if bench.is_dry else "bfloat16"
        with (
            server.assay(Path(made), dtype, 2, device=bench.device.type) as served,
            ThreadPoolExecutor(32) as pool,
        ):
            for _warm_up in range(2):
                begin = time.perf_counter()
                answers = list(pool.map(lambda body: _posted(served.url, body), bodies))
                seconds = time.perf_counter() - begin
    tokens = sum(one["usage"]["tokens"] for one in answers)
    rate, length = tokens / seconds, max(2, tokens // items)
    runner, drawn = bench.runner("0.6b"), np.random.default_rng(8)
    together = PrefixBatch.unshared([_ids(drawn, bench, length, whole=True) for _ in range(64)])
    in_process = together.tokens / bench.seconds(lambda: runner.launch(together))
    del known
    return {
        "passed": bench.is_dry or (rate >= 0.9 * in_process and items / seconds >= 1200),
        "items_s": round(items / seconds, 1),
        "tokens_an_item": length,
        "of_the_rate_in_process": round(rate / in_process, 3),
    }


def _posted(url: str, body: bytes) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/score", body, headers)  # noqa: S310  our own server
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        said: dict[str, Any] = json.load(answer)
    return said


_STEPS: dict[str, Callable[[Bench, Mapping[str, Any]], dict[str, Any]]] = {
    "machine": _machine,
    "attention": _attention,
    "bits": _bits,
    "fidelity": _fidelity,
    "launches": _launches,
    "rate-0.6b": lambda bench, known: _rate(bench, known, "0.6b"),
    "rate-8b": lambda bench, known: _rate(bench, known, "8b"),
    "layers": _layers,
    "single": _single,
    "batches": _batches,
    "memory-full": _memory_full,
    "device-lost": _device_lost,
    "serve": _serve,
}


def _backends(bench: Bench) -> list[str]:
    names = interface.names(bench.device, bench.dtype, compiled=not bench.is_dry)
    return [name.removeprefix("assay-") for name in names]


def _normal(bench: Bench, *shape: int) -> torch.Tensor:
    generator = torch.Generator(device=bench.device).manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, device=bench.device).to(bench.dtype)


def _tensors(
    bench: Bench, rows: int, shape: tuple[int, int, int], seed: int = 0
) -> list[torch.Tensor]:
    """Return random query, key and value, (heads, rows, width) each."""
    heads, kv_heads, width = shape
    generator = torch.Generator(device=bench.device).manual_seed(seed)
    return [
        torch.randn(rows, count, width, generator=generator, device=bench.device)
        .to(bench.dtype)
        .transpose(0, 1)
        for count in (heads, kv_heads, kv_heads)
    ]


def _filled(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return (heads, rows, width) with rows filled up to what a batch has."""
    more = -tensors[0].shape[1] % packing.ROWS
    return [functional.pad(tensor, (0, 0, 0, more)) for tensor in tensors]


def _packed(lengths: Sequence[int], parents: Sequence[int] | None = None) -> packing.PackedBatch:
    batch = PrefixBatch.unshared([np.zeros(length, np.int32) for length in lengths])
    if parents is not None:
        batch = replace(batch, parents=np.array(parents, np.int32))
    return packing.pack(batch)


def _ids(
    random: np.random.Generator, bench: Bench, count: int, *, whole: bool = False
) -> np.ndarray:
    """Return random ids; in a dry run a sixteenth of so many, unless the `whole` is wanted."""
    count = count if whole else bench.scaled(count)
    return random.integers(1, 2000, count).astype(np.int32)


def _group(
    random: np.random.Generator, bench: Bench, groups: int, size: int, *, prefix: int, tail: int
) -> tuple[PrefixBatch, list[np.ndarray]]:
    """Return groups of items that share a prefix each, as a batch and one by one."""
    runs: list[np.ndarray] = []
    parents: list[int] = []
    items = []
    for _ in range(bench.scaled(groups) if groups > 1 else 1):
        root = len(runs)
        runs.append(_ids(random, bench, prefix))
        parents.append(-1)
        for _ in range(bench.scaled(size)):
            runs.append(_ids(random, bench, tail))
            parents.append(root)
            items.append(np.concatenate([runs[root], runs[-1]]))
    reads = np.flatnonzero(np.array(parents) >= 0).astype(np.int32)
    whole = PrefixBatch.unshared(runs)
    return replace(whole, parents=np.array(parents, np.int32), reads=reads), items


def _planned(
    random: np.random.Generator, bench: Bench, runner: model_runner.ModelRunner, count: int
) -> list[Plan]:
    """Return batches as the front plans them, of solutions that grow and of strangers."""
    assert runner.block_cache is not None
    cache = PrefixCache(runner.block_cache.count)
    grown = [_ids(random, bench, 200) for _ in range(8)]
    plans = []
    for _ in range(count):
        queue, flow = ModelQueue(lambda _: False, itertools.count()), RequestFlow()
        for index in random.permutation(8)[: random.integers(1, 8)].tolist():
            grown[index] = np.concatenate([grown[index], _ids(random, bench, 40)])
            if len(grown[index]) > 2000:
                grown[index] = _ids(random, bench, 200)
            queue.add(WorkItem(grown[index], flow), 0.0)
        for _stranger in range(random.integers(0, 4)):
            queue.add(WorkItem(_ids(random, bench, 300), flow), 0.0)
        plans.append(plan(queue, 1 << 16, shares=runner.shares_prefixes, cache=cache))
    return plans


@torch.inference_mode()
def _reference(
    model: PreTrainedModel, items: Sequence[np.ndarray], device: torch.device
) -> np.ndarray:
    """Return transformers' own scores, each item alone; the head in float32."""
    scores = []
    for ids in items:
        row = torch.from_numpy(ids)[None].long().to(device)
        hidden = model.base_model(input_ids=row).last_hidden_state[0, -1]
        scores.append(float(model.score(hidden.float())))
    return np.array(scores)


@torch.inference_mode()
def _padded_s(bench: Bench, items: Sequence[np.ndarray]) -> float:
    """Return how long transformers takes for items in a padded batch, by its SDPA."""
    model = bench.model("0.6b")
    model.set_attn_implementation("sdpa")
    rows = torch.from_numpy(np.stack(items)).long().to(bench.device)
    return bench.seconds(lambda: model.base_model(input_ids=rows), 3)
