"""What is served changes while it is: whole, or not at all, and nobody who waits notices."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import psutil
import pytest

from tests.http import checkpoints, processes
from tests.http.conftest import KEYS
from tests.http.processes import WAIT_S, serving, until
from tests.http.texts import PAIR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.http.processes import Server

ADMIN = {"Authorization": "Bearer the-admin-key"}
LOAD_S = 4 * WAIT_S


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A checkpoint that tests may change."""
    return checkpoints.copy(tiny, tmp_path_factory.mktemp("changes") / "judge")


@pytest.fixture(scope="module")
def config(judge: Path) -> Path:
    """A settings file that tests may change."""
    return judge.parent / "assay.toml"


@pytest.fixture(scope="module")
def server(judge: Path, config: Path) -> Iterator[Server]:
    """A server of that checkpoint, as each test leaves it to the next."""
    config.write_text("")
    with serving(
        judge.parent / "run", judge, config=config, admin_key="the-admin-key", prefix_cache_mb=0
    ) as server:
        yield server


def change(
    server: Server, verb: str, model: str | Path | None = None, **more: str
) -> httpx.Response:
    body = more if model is None else {"model": str(model), **more}
    return server.http.post(f"/admin/{verb}", json=body, headers=ADMIN, timeout=LOAD_S)


def served(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["data"]]


def refused(answer: httpx.Response, code: str, text: str) -> None:
    assert answer.json()["error"]["code"] == code, answer.text
    assert text in answer.json()["error"]["message"]


def told(answer: httpx.Response) -> tuple[str, list[float]]:
    """Return the revision of an answer, and its scores."""
    assert answer.status_code == 200, answer.text
    return answer.json()["revision"], [one["score"] for one in answer.json()["data"]]


def negated(tensors: dict[str, Any]) -> None:
    tensors["score.weight"] = -tensors["score.weight"]


def workers(server: Server) -> list[psutil.Process]:
    return processes.workers(server.process.pid)


def test_a_reload_takes_no_options(server: Server) -> None:
    """They would do nothing: which models are read again can't be chosen, nor in the URL."""
    for body, query, param in (
        ({"model": "judge"}, "", "model"),
        ({"models": ["judge"]}, "", "models"),
        ([], "", None),
        ({}, "?model=judge", "model"),
    ):
        answer = server.http.post(f"/admin/reload{query}", json=body, headers=ADMIN)
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"].get("param") == param


def test_who_waits_is_answered_by_the_revision_that_was_asked(server: Server, judge: Path) -> None:
    """Newcomers get the new one meanwhile; the old device process ends with its last answer."""
    old = told(server.score(inputs=[PAIR]))
    (worker,) = workers(server)

    with ThreadPoolExecutor() as pool:
        worker.suspend()
        waits = pool.submit(server.score, inputs=[PAIR] * 3)
        until("it waits", lambda: server.metric("assay_queue_items") or not waits.done())
        checkpoints.edit_weights(judge, negated)
        served(change(server, "reload"))
        new = told(server.score(inputs=[PAIR]))
        assert not waits.done()
        worker.resume()
        late = told(waits.result())

    assert new[0] != old[0]
    assert new[1] == [-score for score in old[1]]
    assert late == (old[0], old[1] * 3)
    until("the old device process is gone", lambda: not worker.is_running())
    entry = server.http.get("/models/judge").json()
    assert entry["revision"] == new[0]
    assert server.metric("assay_model_info", model="judge") == 1
    assert server.metric("assay_model_info", model="judge", revision=new[0]) == 1


def test_models_come_and_go_under_traffic(server: Server, judge: Path, bare: Path) -> None:
    """Every answer meanwhile is a right one."""
    quiet = told(server.score(inputs=[PAIR] * 5))
    is_over = threading.Event()

    def ask() -> list[tuple[str, list[float]]]:
        answers = []
        with httpx.Client(base_url=server.url, timeout=WAIT_S) as http:
            while not is_over.is_set():
                answers.append(told(http.post("/score", json={"inputs": [PAIR] * 5})))
        return answers

    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            loaded = served(change(server, "load", bare, name="mine"))
            other = told(server.score(inputs=[PAIR], model="mine"))
            unloaded = served(change(server, "unload", "judge"))
            refused(server.score(inputs=[PAIR], model="judge"), "unknown_model", "'mine'")
            first = told(server.score(inputs=[PAIR]))
        finally:
            is_over.set()
        answers = [one for future in asking for one in future.result()]

    assert (loaded, unloaded) == (["judge", "mine"], ["mine"])
    assert first == other
    assert set(map(str, answers)) <= {str(quiet), str((other[0], other[1] * 5))}
    assert str(quiet) in map(str, answers)
    assert served(change(server, "load", judge)) == ["mine", "judge"]
    assert served(change(server, "unload", bare)) == ["judge"]  # by its path


def test_a_bad_version_leaves_the_old_one_serving(server: Server, judge: Path) -> None:
    """The caller learns what is wrong with it."""
    good = told(server.score(inputs=[PAIR]))
    weights = judge / "model.safetensors"
    kept = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(kept[: len(kept) // 2])

    answer = change(server, "reload")

    assert answer.status_code == 409
    refused(answer, "change_refused", "what was served before still is")
    assert told(server.score(inputs=[PAIR])) == good
    assert server.http.get("/health/ready").status_code == 200
    weights.write_bytes(kept)
    assert told(server.score(inputs=[PAIR])) == good


@pytest.mark.parametrize("is_said_by_config", [True, False])
def test_a_quantized_checkpoint_is_no_dead_worker(
    server: Server, judge: Path, tmp_path: Path, *, is_said_by_config: bool
) -> None:
    """Asking again would be of no use, to load it as to reload it; what was served still is."""
    good = told(server.score(inputs=[PAIR]))
    small = checkpoints.copy(judge, tmp_path / "small")
    quantize(small, is_said_by_config=is_said_by_config)
    answers = [change(server, "load", small)]
    kept = {name: (judge / name).read_bytes() for name in ("config.json", checkpoints.WEIGHTS)}
    quantize(judge, is_said_by_config=is_said_by_config)
    answers.append(change(server, "reload"))
    for name, content in kept.items():
        (judge / name).write_bytes(content)

    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["retryable"]) == (409, False)
        refused(answer, "change_refused", "is quantized (")
        refused(answer, "change_refused", "give the checkpoint in bfloat16")
        assert "worker" not in answer.text
        assert "Retry-After" not in answer.headers
    assert told(server.score(inputs=[PAIR])) == good


def test_a_quantized_checkpoint_scores_as_its_dequantized_twin(
    server: Server, judge: Path, tmp_path: Path
) -> None:
    """Recognised without a card, checked, expanded and verified as any other."""
    small, twin = (checkpoints.copy(judge, tmp_path / name) for name in ("small", "twin"))
    checkpoints.edit_weights(small, to_eight_bits)
    checkpoints.edit_weights(twin, through_eight_bits)
    checkpoints.edit_config(small, quantization_config={"load_in_8bit": True})

    for folder in (small, twin):
        assert folder.name in served(change(server, "load", folder))
    scores, expected, unlike = (
        told(server.score(inputs=[PAIR], model=name))[1] for name in ("small", "twin", "judge")
    )
    for name in ("small", "twin"):
        change(server, "unload", name)

    assert scores == pytest.approx(expected, abs=1e-5)
    assert abs(scores[0] - unlike[0]) > 1e-4


def to_eight_bits(tensors: dict[str, np.ndarray]) -> None:
    """Write every layer's matrices as bitsandbytes does."""
    for name in [name for name in tensors if ".layer" in name and tensors[name].ndim == 2]:
        scales = np.abs(tensors[name]).max(1)
        codes = np.round(tensors[name] / scales[:, None] * 127)
        tensors[name] = codes.astype(np.int8)
        tensors[f"{name.removesuffix('weight')}SCB"] = scales.astype(np.float32)


def through_eight_bits(tensors: dict[str, np.ndarray]) -> None:
    """Round every layer's matrices as that does."""
    to_eight_bits(tensors)
    for name in [name for name in tensors if name.endswith(".SCB")]:
        weight = f"{name.removesuffix('SCB')}weight"
        tensors[weight] = (tensors[weight] * (tensors.pop(name)[:, None] / 127)).astype(np.float32)


def test_no_file_of_a_checkpoint_is_taken_for_a_defect(
    server: Server, judge: Path, tmp_path: Path
) -> None:
    """Nested deep, a folder for a file, sizes that no model has, a path that none can have."""
    good = told(server.score(inputs=[PAIR]))
    deep = '{"a":' + "[" * 200_000 + "]" * 200_000 + "}"
    for number, name in enumerate(
        ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json")
    ):
        nested = checkpoints.copy(judge, tmp_path / f"nested-{number}")
        (nested / name).write_text(deep)
    carded = checkpoints.copy(judge, tmp_path / "carded")
    (carded / "card.toml").write_text("a = " + "[" * 30_000 + "]" * 30_000)
    base = checkpoints.copy(judge, tmp_path / "base")
    for name in ("tokenizer.json", "config.json"):
        replaced = checkpoints.copy(base, tmp_path / f"replaced-{name}")
        (replaced / name).unlink()
        (replaced / name).mkdir()
    checkpoints.edit_config(base, num_hidden_layers=20_000_000)

    for path in [*sorted(tmp_path.iterdir()), "/" + "a" * 6_000, "/a\0b", "./" + "a/" * 3_000]:
        answer = change(server, "load", path)

        assert (answer.status_code, answer.json()["error"]["retryable"]) == (409, False), path
        refused(answer, "change_refused", "what was served before still is")
        assert "defect" not in answer.text
    assert told(server.score(inputs=[PAIR])) == good


def quantize(folder: Path, *, is_said_by_config: bool) -> None:
    """Make a checkpoint look quantized, by its config or by a tensor beside a weight."""
    if is_said_by_config:
        checkpoints.edit_config(folder, quantization_config={"quant_method": "awq", "bits": 4})
        return
    name = "model.layers.0.mlp.up_proj.weight_scale"
    checkpoints.edit_weights(
        folder, lambda tensors: tensors.update({name: tensors["score.weight"]})
    )


def test_what_cannot_be_changed_is_named(server: Server, judge: Path) -> None:
    """A model that isn't there, one that is there already, and the last one."""
    before = server.metric("assay_changes_total", source="admin", outcome="refused")
    refused(change(server, "load", "org/nowhere@x/y"), "change_refused", "org/nowhere")
    assert server.metric("assay_changes_total", source="admin", outcome="refused") == before + 1
    refused(change(server, "load", judge), "change_refused", "reload it instead")
    refused(change(server, "unload", "judge"), "change_refused", "load another one before")
    refused(change(server, "unload", "scorer"), "unknown_model", "'judge'")
    refused(change(server, "load"), "invalid_field", "model")
    for name, code in (("judge", "change_refused"), ("two\nlines", "invalid_field")):
        refused(change(server, "load", "bare", name=name), code, "name")
    assert change(server, "unload", "judge", name="x").status_code == 422


def test_the_settings_are_read_again_on_sighup(server: Server, config: Path) -> None:
    """A mistake in them changes nothing."""
    config.write_text('[aliases]\nscorer = "judge"\n')

    os.kill(server.process.pid, signal.SIGHUP)

    until(
        "the new alias answers",
        lambda: server.score(inputs=[PAIR], model="scorer").status_code == 200,
        LOAD_S,
    )
    config.write_text("[alias]\n")
    os.kill(server.process.pid, signal.SIGHUP)
    until("it is told", lambda: "unknown setting 'alias'" in server.log.read_text())
    assert server.score(inputs=[PAIR], model="scorer").status_code == 200
    config.write_text("")
    os.kill(server.process.pid, signal.SIGHUP)
    until("the alias is gone", lambda: server.score(inputs=[PAIR], model="scorer").is_error, LOAD_S)


def test_settings_that_change_while_they_are_taken_are_taken_after_that(
    server: Server, config: Path
) -> None:
    """A second SIGHUP isn't lost; each leaves a line in the audit log."""
    before = server.log.read_text().count("SIGHUP: ok")
    config.write_text('[aliases]\nfirst = "judge"\n')
    os.kill(server.process.pid, signal.SIGHUP)
    until("it is loading", lambda: len(workers(server)) == 2, LOAD_S)

    config.write_text('[aliases]\nsecond = "judge"\n')
    os.kill(server.process.pid, signal.SIGHUP)
    os.kill(server.process.pid, signal.SIGHUP)

    until(
        "the second alias answers",
        lambda: server.score(inputs=[PAIR], model="second").status_code == 200,
        LOAD_S,
    )
    until("both are told", lambda: server.log.read_text().count("SIGHUP: ok") >= before + 2)
    refused(server.score(inputs=[PAIR], model="first"), "unknown_model", "'first'")
    assert "SIGHUP: settings_error" in server.log.read_text()


def test_changes_need_a_key_of_their_own(narrow: Server, server: Server) -> None:
    """403 without one set up or with one for scoring, 401 with none; each change is on record."""
    scoring = httpx.post(f"{narrow.url}/admin/reload", headers={"X-Api-Key": KEYS[0]})
    keyless = httpx.post(f"{server.url}/admin/reload")
    change(server, "unload", "judge")

    assert scoring.status_code == 403
    refused(scoring, "forbidden", "ASSAY_ADMIN_KEY")
    assert keyless.status_code == 401
    until(
        "the change is in the log",
        lambda: "/admin/unload 'judge': change_refused" in server.log.read_text(),
    )


def test_reloading_often_leaves_nothing_behind(server: Server) -> None:
    """Threads and open files are as many as before."""
    process = psutil.Process(server.process.pid)
    served(change(server, "reload"))
    until("the old device process is gone", lambda: len(workers(server)) == 1)
    threads, files = process.num_threads(), process.num_fds()

    for _ in range(3):
        served(change(server, "reload"))

    until("the old device processes are gone", lambda: len(workers(server)) == 1)
    until("no thread is left over", lambda: process.num_threads() <= threads)
    until("no file is left open", lambda: process.num_fds() <= files)


def test_a_server_may_be_stopped_while_it_changes(server: Server) -> None:
    """Neither what leaves nor what comes holds it up. The last test: the server is gone then."""
    served(change(server, "reload"))
    ready = told_ready(server)

    os.kill(server.process.pid, signal.SIGHUP)
    until("the next one is loading", lambda: len(workers(server)) > 1 or ready < told_ready(server))

    assert server.terminate() == 0


def told_ready(server: Server) -> int:
    return server.log.read_text().count("is ready")
