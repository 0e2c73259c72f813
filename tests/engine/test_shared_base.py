"""Adapters on one copy of their base: each has peft's scores, whatever shares its batch."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch

from assay.engine import loading, shared_base, verification
from assay.engine.adapted_runner import AdaptedRunner
from assay.joined_batch import join
from assay.scheduling.planner import ModelQueue, plan_together
from assay.scheduling.policy import WARM_UP
from assay.scheduling.prefix_cache import PrefixCache
from assay.scheduling.work_item import RequestFlow, WorkItem
from assay.worker_protocol import Loaded, PrefixBatch, Start
from tests.engine import adapted
from tests.fidelity import checkpoints
from tests.fidelity.reference import FLOAT32_TOLERANCE

CPU = torch.device("cpu")
# transformers warns of its own old name, which peft still uses
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
ITEMS = adapted.items(1, 2, 17, 90, 45)
CASES = {
    "qwen2": [{}, {"r": 8}, {"target_modules": ["down_proj"]}],
    "llama": [{"layers_to_transform": layers} for layers in ([1, 2], [2], [1])],
    "gemma2": [{"layers_to_transform": [2]}, {"layers_to_transform": [2], "use_rslora": True}],
    "bert": [{"layers_to_transform": [2], "target_modules": ["query", "output.dense"]}] * 2,
}


def runner_of(specs, dtype=torch.float32):
    """Return the verified base with all adapters on it."""
    runner = shared_base.load(specs, device=CPU, dtype=dtype)
    verification.verify(runner, compiled=True)
    return runner


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Make each case's adapters once: what to load, and the runner."""
    known = {}

    def make(name):
        if name not in known:
            specs = adapted.make(tmp_path_factory.mktemp(name), name, *CASES[name])
            known[name] = specs, runner_of(specs)
        return known[name]

    return make


def alone(runner, number, items):
    """Return an adapter's scores of items, each in a batch of its own."""
    batches = [join({number: PrefixBatch.unshared([ids])}, 0) for ids in items]
    return np.array([runner.score(batch)[0, 0] for batch in batches])


@pytest.mark.parametrize("name", CASES)
def test_each_adapter_has_pefts_own_scores(served, name):
    """Unmerged, eager, a batch of one; and they differ, or a mistaken adapter wouldn't show."""
    specs, runner = served(name)
    wanted = np.array([adapted.expected(spec, ITEMS) for spec in specs])

    scores = np.array([alone(runner, number, ITEMS) for number in range(len(specs))])

    assert runner.forward == "packed"
    assert np.abs(np.diff(wanted, axis=0)).max(1).min() > 0.01
    assert np.abs(scores - wanted).max() < FLOAT32_TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_scores_keep_their_bits_whatever_shares_the_batch(served, name):
    """Other adapters with the same items, with others, with some of them, in another order."""
    specs, runner = served(name)
    single = np.array([alone(runner, number, ITEMS) for number in range(len(specs))])
    random = np.random.default_rng(0)

    for few in (len(ITEMS), 3, 1):
        chosen = {n: random.permutation(len(ITEMS))[:few] for n in range(len(specs))}
        for order in (dict.fromkeys(chosen, np.arange(len(ITEMS))), chosen):
            parts = {n: PrefixBatch.unshared([ITEMS[i] for i in order[n]]) for n in order}
            scores = runner.score(join(parts, 0))[:, 0]
            assert scores.tolist() == np.concatenate([single[n][order[n]] for n in order]).tolist()


def test_scores_keep_their_bits_behind_shared_and_kept_prefixes(served):
    """Adapters keep blocks of their own; where they were computed as one they are read as one."""
    specs, runner = served("llama")
    verification.keep_prefixes(runner, 1 << 18)
    blocks = runner.block_cache.count // len(specs)
    (prompt,) = adapted.items(40)
    rounds = [
        [np.append(prompt, ids) for ids in adapted.items(3, 20, seed=seed)] for seed in (1, 2, 3)
    ]
    caches = {spec.name: PrefixCache(blocks) for spec in specs}
    names = [spec.name for spec in specs]

    for turn, items in enumerate(rounds):
        lines = {name: ModelQueue(lambda _: False, count()) for name in names}
        asked = names[turn == 0 :]  # the first adapter misses the first round
        works = {name: [WorkItem(ids, RequestFlow()) for ids in items] for name in asked}
        for name in asked:
            for work in works[name]:
                lines[name].add(work, 0.0)
        plans = plan_together(lines, 1 << 20, shares=True, caches=caches)
        parts = {names.index(name): each.prefix_batch for name, each in plans.items()}
        scores = iter(runner.score(join(parts, blocks))[:, 0].tolist())
        for number in sorted(parts):
            found = {work: next(scores) for work in plans[names[number]].works}
            of_items = [found[work] for work in works[names[number]]]
            assert of_items == alone(runner, number, items).tolist()
        assert bool(turn) == any(part.held for part in parts.values())
    runner.block_cache = None


def test_any_rows_may_be_read(served):
    """Steps of each adapter's items, in their order, have the bits that they have alone."""
    _, runner = served("llama")
    items = PrefixBatch.unshared(ITEMS)
    rows = {n: np.array([149, 3, 3, 110 - n], np.int32) for n in range(3)}
    parts = {n: replace(items, read_rows=rows[n]) for n in rows}

    together = runner.score(join(parts, 0))[:, 0]

    alone = [runner.score(join({n: part}, 0))[:, 0] for n, part in parts.items()]
    assert together.tolist() == np.concatenate(alone).tolist()
    assert len(set(together.tolist())) == 9


def test_layers_below_the_first_adapted_one_compute_each_token_once(served):
    """Three members read an item; only the layers that differ see it three times."""
    _, runner = served("llama")
    rows = {}

    def note(module, args, output):
        rows[module] = args[0].shape[-2]

    gates = [block.mlp.gate_proj for block in runner.model.model.layers]
    hooks = [gate.register_forward_hook(note) for gate in gates]

    runner.score(join(dict.fromkeys(range(3), PrefixBatch.unshared(ITEMS[3:4])), 0))

    for hook in hooks:
        hook.remove()
    assert [rows[gate] for gate in gates] == [96, 3 * 96, 3 * 16]  # of the last, what is read


def test_the_bases_weights_are_there_once(served):
    """Each adapter adds its own small tensors and a head, and no copy of what it lies on."""
    specs, runner = served("qwen2")
    modules = list(runner.model.modules())
    held = {
        id(tensor): tensor.numel()
        for module in modules
        for value in [*vars(module).values(), *module._parameters.values()]
        for tensor in (value if isinstance(value, list) else [value])
        if isinstance(tensor, torch.Tensor) and not isinstance(value, dict)
    }
    adapters = sum(
        tensor.numel()
        for module in modules
        for tensor in [*getattr(module, "down", ()), *getattr(module, "up", ())]
    )

    merged = loading.model_runner.load(
        specs[0].folder, specs[0].card, device=CPU, dtype=torch.float32, base=specs[0].base
    )

    assert adapters > 0
    assert runner.parameters == merged.parameters
    assert sum(held.values()) <= merged.parameters + adapters + 1000  # and buffers


def loaded(specs, said, **options):
    """Return the loader of a process with some models, warm."""
    start = Start("cpu", None, "off", tuple(specs), replace(WARM_UP, sizes=(64,)), **options)
    loader = loading.Loader(start, said.append)
    for step in (loader.load, loader.warm_up):
        for spec in specs:
            step(spec)
    return loader


def test_a_process_says_which_models_share_a_base(served, tmp_path):
    """Adapters of one base do; another model beside them has its own."""
    specs, _ = served("qwen2")
    other = checkpoints.make(tmp_path, "qwen2", vocabulary=adapted.VOCABULARY)
    said = []

    loader = loaded([*specs, replace(specs[0], name="other", folder=other, base=None)], said)

    names = tuple(spec.name for spec in specs)
    answers = {message.model: message for message in said if isinstance(message, Loaded)}
    assert [answers[name].shared_base for name in names] == [names] * 3
    assert answers["other"].shared_base == ()
    assert len({id(loader.runners[name]) for name in names}) == 1
    assert not isinstance(loader.runners["other"], AdaptedRunner)
    said_why = [warning for name in names for warning in answers[name].warnings]
    assert not any("a base of its own" in warning for warning in said_why)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"use_dora": True}, "it sets use_dora"),
        ({"bias": "all"}, "it sets bias"),
        ({"init_lora_weights": "olora"}, "init_lora_weights = 'olora' changes its base"),
        ({"modules_to_save": ["norm"]}, "it saves 'norm' whole"),
    ],
)
def test_what_cannot_lie_on_a_shared_base_is_merged_and_says_why(tmp_path, options, why):
    """Its scores are peft's all the same, and so are those of the other one."""
    specs = adapted.make(tmp_path, "qwen2", {}, options)

    loader = loaded(specs, [])

    check_merged(loader, specs)
    assert why in " ".join(loader.runners["m1"].warnings)


def check_merged(loader, specs):
    """Hold that models have bases of their own, and their scores."""
    for spec in specs:
        runner = loader.runners[spec.name]
        scores = np.concatenate([runner.score(PrefixBatch.unshared([ids]))[:, 0] for ids in ITEMS])
        assert np.abs(scores - adapted.expected(spec, ITEMS)).max() < FLOAT32_TOLERANCE
        assert not isinstance(runner, AdaptedRunner)


def test_adapters_that_turn_out_not_to_share_are_loaded_one_by_one(tmp_path):
    """Which layers an adapter changes is known once it is on its base."""
    onto_the_head = {"task_type": None, "target_modules": ["q_proj", "score"]}
    specs = adapted.make(tmp_path, "qwen2", onto_the_head, onto_the_head)

    loader = loaded(specs, [])

    check_merged(loader, specs)
    for spec in specs:
        said = " ".join(loader.runners[spec.name].warnings)
        assert "outside of the model's repeated layers" in said


def test_adapters_that_are_quantized_or_unlike_each_other_share_nothing(served):
    """Rounding is of merged weights; and a pass has one dtype."""
    specs, _ = served("qwen2")
    rounded = [replace(spec, quantize="int8") for spec in specs]
    mixed = [specs[0], replace(specs[1], dtype="bfloat16")]

    assert set(shared_base.plan(rounded).reasons.values()) == {
        "its linear layers are to be quantized"
    }
    assert set(shared_base.plan(mixed).reasons) == {"m0", "m1"}
    assert not shared_base.plan(mixed).groups
    assert shared_base.plan(specs[:1]) == shared_base.Sharing()
