"""A process' models on its device, and how they divide its memory."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from assay.cards.card import Card
from assay.engine import loading, verification, warmup
from assay.scheduling.policy import WARM_UP
from assay.worker_protocol import Loaded, ModelSpec, Progress, Start
from tests.fidelity import checkpoints

FREE = 40 * 2**30


class Enough(Exception):
    """The test has seen what it is about."""


def stop(*args, **given):
    """Go no further."""
    raise Enough


def start_of(*specs, device="cpu"):
    """Return what a process is told to load."""
    return Start(device, None, "off", specs, replace(WARM_UP, sizes=(64,)))


def test_memory_is_divided_once_all_models_are_there(tmp_path, monkeypatch):
    """Each keeps its blocks before its largest batch is looked for, which takes what is left."""
    folder = checkpoints.make(tmp_path / "m", "qwen3", vocabulary=300)
    specs = [ModelSpec(name, folder, Card(), "auto", 64, None) for name in ("a", "b")]
    said, seen = [], []
    loader = loading.Loader(start_of(*specs), said.append)
    find_budget = warmup.find_budget

    def find(trunk, warm_up, **given):
        seen.append((len(loader.runners), trunk.block_cache is not None))
        return find_budget(trunk, warm_up, **given)

    monkeypatch.setattr(warmup, "find_budget", find)
    for step in (loader.load, loader.warm_up):
        for spec in specs:
            step(spec)

    assert seen == [(2, True)]  # the second is of the first one's shape
    stages = [(one.model, getattr(one, "stage", "loaded")) for one in said]
    assert stages == [
        *[("a", "load"), ("a", "verify"), ("b", "load"), ("b", "verify")],
        *[("a", "warm up"), ("a", "loaded"), ("b", "warm up"), ("b", "loaded")],
    ]
    assert {type(one) for one in said} == {Progress, Loaded}


@pytest.mark.parametrize(
    ("device", "asked_mb", "each"),
    [("cuda:1", None, FREE // 10 // 4), ("cuda:1", 7, 7 * 2**20), ("cpu", None, 512 * 2**20)],
)
def test_models_share_a_tenth_of_what_a_gpu_has_free(monkeypatch, device, asked_mb, each):
    """Not a tenth of its memory each: ten models would promise all of it beside their weights."""
    kept, looked = [], []

    def free(device):
        looked.append(device)
        return FREE // 2 ** len(kept), 2 * FREE  # less, once somebody has taken some

    monkeypatch.setattr(torch.cuda, "mem_get_info", free)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    specs = [ModelSpec(str(name), None, None, "auto", 64, asked_mb) for name in range(4)]
    loader = loading.Loader(start_of(*specs, device=device), lambda _: None)
    loader._budgets = SimpleNamespace(of=stop)
    monkeypatch.setattr(verification, "keep_prefixes", lambda _, memory: kept.append(memory))
    for spec in specs:
        loader.runners[spec.name] = SimpleNamespace(device=torch.device(device))

    for spec in specs:
        with pytest.raises(Enough):  # no budget is looked for here
            loader._warm_up(spec, loader.runners[spec.name])

    assert kept == [each] * 4
    assert looked == [torch.device(device)] * (device != "cpu" and asked_mb is None)


def test_kernels_of_our_own_go_to_the_models_gpu(tmp_path, monkeypatch):
    """Triton launches on the current device, which is the first one unless somebody says so."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)

    def load(*args, device, **given):
        assert current == [device]
        raise Enough

    monkeypatch.setattr(loading.model_runner, "load", load)
    spec = ModelSpec("m", tmp_path, Card(), "auto", 64, None)

    with pytest.raises(Enough):
        loading.Loader(start_of(spec, device="cuda:1"), lambda _: None).load(spec)

    assert current == [torch.device("cuda:1")]
