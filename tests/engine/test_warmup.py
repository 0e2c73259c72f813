"""The batch budget, with a clock that the test owns."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from assay.engine.warmup import Budgets, find_budget
from assay.errors import CheckpointError
from assay.notebook import Notebook
from assay.scheduling.policy import WARM_UP


class Machine:
    """A trunk whose forward pass takes as long as `seconds(tokens)` says."""

    max_tokens = None
    device = torch.device("cpu")
    model = SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=100))
    )

    def __init__(self, seconds):
        self.seconds = seconds
        self.now = 0.0
        self.longest = 0

    def score(self, prefix_batch):
        self.now += self.seconds(prefix_batch.tokens)
        self.longest = max(self.longest, prefix_batch.tokens)


def budget(seconds):
    """Return what is found on such a machine."""
    machine = Machine(seconds)
    return find_budget(machine, WARM_UP, clock=lambda: machine.now)


def twin(seconds, **changed):
    """Return a machine of a model's shape."""
    machine = Machine(seconds)
    shape = {"hidden_size": 64} | changed
    machine.model = SimpleNamespace(
        config=SimpleNamespace(
            get_text_config=lambda: SimpleNamespace(vocab_size=100),
            to_diff_dict=lambda: {"_name_or_path": str(id(machine)), **shape},
        )
    )
    machine.forward, machine.attention, machine.is_compiled = "packed", "native", False
    machine.quantized = None
    machine.dtype, machine.parameters, machine.runs = torch.float32, 1000, 0
    return machine


def test_models_of_one_shape_are_timed_once():
    """An ensemble's members are: a start needn't try all sizes for each."""
    budgets, seen = Budgets(WARM_UP), []

    def seconds(tokens):
        seen.append(tokens)
        return 0.0

    first = budgets.of(twin(seconds))
    tried = len(seen)
    second = budgets.of(twin(seconds))
    assert (second, seen[tried:]) == (first, [first.tokens])
    budgets.of(twin(seconds, hidden_size=128))
    assert len(seen) == 2 * tried + 1


def test_what_an_earlier_start_found_is_taken_while_the_machine_is_as_fast(monkeypatch, tmp_path):
    """One batch shows it; on another machine, or for another shape, all sizes are tried again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def start(s_per_token, **changed):
        machine = twin(lambda tokens: s_per_token * tokens, **changed)
        budgets = Budgets(WARM_UP, Notebook("batches.json"), clock=lambda: machine.now)
        return budgets.of(machine), machine.longest

    first, tried = start(1e-3)
    assert (first.tokens, tried) == (512, 1024)
    assert start(1.1e-3) == (replace(first, tokens_per_s=pytest.approx(1e3 / 1.1)), 512)
    assert start(1.1e-3, hidden_size=128)[1] == 1024
    assert start(5e-4)[1] == 2048
    (tmp_path / "assay" / "batches.json").write_text("[]")
    assert start(1e-3) == (first, 1024)


def test_what_the_operator_says_is_not_looked_for():
    """That size alone is run, for its rate; one that doesn't fit the memory is refused."""
    machine = twin(lambda tokens: 1e-3 * tokens)

    found = Budgets(replace(WARM_UP, sizes=(64,))).of(machine)

    assert (found.tokens, machine.longest) == (64, 64)
    with pytest.raises(CheckpointError, match="512 tokens exceeds the device's memory"):
        Budgets(replace(WARM_UP, sizes=(512,))).of(twin(lambda tokens: full(tokens / 4)))


def full(tokens):
    """Take no time, and no more than some tokens."""
    if tokens > 64:
        raise RuntimeError("CUDA out of memory")
    return 0.0


def test_a_twin_that_does_not_fit_any_more_is_timed_again():
    """Each takes memory from those behind it."""
    budgets = Budgets(WARM_UP)
    first = budgets.of(twin(lambda _: 0.0))

    second = budgets.of(twin(lambda tokens: full(tokens / 16)))
    assert (first.tokens, second.tokens, second.most) == (WARM_UP.sizes[-1], 1024, 1024)


def test_batches_grow_while_that_pays():
    """With a fixed cost of 10 ms and 1 us a token, larger batches pay up to the longest."""
    found = budget(lambda tokens: 0.01 + 1e-6 * tokens)

    assert found.tokens == WARM_UP.sizes[-1]
    assert found.tokens_per_s == pytest.approx(found.tokens / (0.01 + 1e-6 * found.tokens))


def test_the_smallest_batch_that_is_about_as_fast_is_taken():
    """At 1 ms a token 512 tokens are as fast as any and take long enough: more would only wait."""
    assert budget(lambda tokens: 1e-3 * tokens).tokens == 512


def test_a_lucky_reading_of_a_short_batch_does_not_choose_it():
    """What takes too little time isn't a candidate, however fast it seemed."""
    assert budget(lambda tokens: (0.8e-3 if tokens == 256 else 1e-3) * tokens).tokens == 512


def test_a_batch_that_fits_the_caches_is_taken():
    """A small model is a quarter slower in batches of more than 8,192 tokens."""
    found = budget(lambda tokens: (3e-5 if tokens <= 8192 else 4e-5) * tokens)

    assert found.tokens == 4096


def test_a_batch_takes_long_enough_for_the_hops_between_batches_not_to_show():
    """Where size buys nothing on a fast device, batches still take a while."""
    found = budget(lambda tokens: 1e-5 * tokens)

    assert WARM_UP.shortest_s <= 1e-5 * found.tokens < 2 * WARM_UP.shortest_s


def test_a_batch_never_takes_longer_than_the_bound():
    """A slow device gets small batches though larger ones were faster per token."""
    found = budget(lambda tokens: 0.3 + 1e-4 * tokens)

    assert 0.3 + 1e-4 * found.tokens <= WARM_UP.longest_s


def test_a_size_that_will_take_too_long_is_not_tried():
    """It would be the longest part of the start."""
    machine = Machine(lambda tokens: 1e-3 * tokens)
    find_budget(machine, WARM_UP, clock=lambda: machine.now)

    assert machine.longest == 1024


def test_even_the_slowest_device_gets_a_budget():
    """Where the smallest batch exceeds the bound it is the budget."""
    assert budget(lambda tokens: 10.0 + tokens).tokens == WARM_UP.sizes[0]
