"""The process that reads checkpoints, with checkpoints that want it to hang, and those it forks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from assay import scratch
from assay.errors import CheckpointError, NotReady, TemplateRefused
from assay.items import Conversation, Cutting, Text
from assay.prompts import renderer as renderers
from assay.prompts.loader import Loader
from assay.prompts.models import ResolveSettings
from assay.prompts.renderer import Looked, Renderer
from assay.settings import Settings
from assay.wakeup_throttle import WakeupThrottle
from tests.http import checkpoints

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CUTTING = Cutting()
CHAT = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
BAD = "{% if messages[0].content == 'bad' %}"


def talk(prompt: str) -> Conversation:
    """Return a conversation."""
    return Conversation(
        ({"role": "user", "content": prompt}, {"role": "assistant", "content": "So."})
    )


def backtracking(folder: Path) -> None:
    """Give a tokenizer an expression that backtracks without end over a row of a's."""
    path = folder / "tokenizer.json"
    said = json.loads(path.read_text())
    said["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": "(?:a|aa)+(?:a|aa)+(?:a|aa)+(?=z)"},
                "behavior": "Isolated",
                "invert": False,
            },
            said["pre_tokenizer"],
        ],
    }
    path.write_text(json.dumps(said))


@pytest.fixture(scope="module")
def wanted() -> ResolveSettings:
    """The settings of a server without any."""
    return ResolveSettings(Settings().repository)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint."""
    return checkpoints.build(tmp_path_factory.mktemp("process") / "sound")


@pytest.fixture
async def loader(wanted: ResolveSettings) -> AsyncIterator[Loader]:
    """A loading process."""
    async with Loader(wanted, timeout_s=60) as loader:
        yield loader


def bring(sound: Path, folder: Path, chat: str) -> Path:
    """Return a copy with another chat template."""
    checkpoints.copy(sound, folder)
    (folder / "chat_template.jinja").write_text(chat)
    return folder


async def renderer_of(loader: Loader, folder: Path) -> tuple[Renderer, list[str]]:
    """Return a model's renderer, and what notes its restarts."""
    resolved = await loader.resolve(str(folder))
    await loader.begin_to_render(resolved.models)
    restarts: list[str] = []
    return Renderer(resolved.models[0], loader, WakeupThrottle(), restarts.append), restarts


async def test_items_are_rendered_as_in_this_process(loader, sound, wanted):
    """Ids, texts and tokens; what isn't Unicode is refused in its place."""
    from assay.prompts import resolution

    renderer, _ = await renderer_of(loader, sound)
    sources: list[Any] = [talk("Why?"), Text("Why \ud800?"), Text("plain")]
    (checkpoint,) = (one.checkpoint for one in resolution.resolve(str(sound), wanted)[0].models)
    expected = resolution.template_of(checkpoint, wanted).render_all(sources, CUTTING)

    found = await renderer.look(sources, CUTTING, size=9)
    renderer.stop()

    assert [getattr(one, "message", None) for one in found] == [
        getattr(one, "message", None) for one in expected
    ]
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, Looked):
            assert one.rendered.ids.tolist() == other.ids.tolist()
            assert one.rendered.text == other.text
            assert len(one.tokens) == len(other.ids)


@pytest.mark.parametrize(
    ("chat", "spoil", "bad"),
    [
        (CHAT + BAD + "{% set n = namespace(t='ab') %}{% for i in range(40) %}"
         "{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t | length }}{% endif %}", None, "bad"),
        (CHAT + BAD + "{{ (('a' * 1000000) | list | join('b') ~ 'c') | replace('a', 'a' * 100000) "
         "| length }}{% endif %}", None, "bad"),
        (CHAT, backtracking, 60_000 * "a"),
    ],
    ids=["doubled text", "replaced text", "backtracking"],
)  # fmt: skip
async def test_an_item_over_which_the_process_ends_is_refused_and_no_other(
    loader, sound, tmp_path, monkeypatch, chat, spoil, bad
):
    """Whatever code it is in, and however often: each time another process goes on."""
    monkeypatch.setattr(renderers, "_ROUND_S", 1.0)
    folder = bring(sound, tmp_path / "bad", chat)
    if spoil is not None:
        spoil(folder)
    renderer, restarts = await renderer_of(loader, folder)
    good = await renderer.render([talk("fine")], CUTTING, size=9)

    found = await renderer.render([talk("fine"), talk(bad), talk("fine")], CUTTING, size=9)
    renderer.stop()

    assert isinstance(found[1], TemplateRefused)
    assert bad not in found[1].message
    assert [one.ids.tolist() for one in (found[0], found[2])] == 2 * [good[0].ids.tolist()]
    assert len(restarts) <= 2  # none where memory runs out in Python, which the item survives


async def test_a_process_that_is_killed_costs_nobody_anything(loader, sound):
    """What it was at is rendered by the next one, which is there in no time."""
    renderer, restarts = await renderer_of(loader, sound)
    before = await renderer.render([talk("Why?")], CUTTING, size=9)
    first = renderer.pid
    os.kill(first, signal.SIGSTOP)
    asking = asyncio.create_task(renderer.render([talk("Why?")], CUTTING, size=9))
    await asyncio.sleep(0.05)
    os.kill(first, signal.SIGKILL)

    after = await asking

    assert after[0].ids.tolist() == before[0].ids.tolist()
    assert renderer.pid not in (None, first)
    assert restarts == ["sound"]
    renderer.stop()


async def test_a_loading_process_that_dies_is_started_again(loader, sound):
    """Where the next process is needed; the files are as they were."""
    renderer, _ = await renderer_of(loader, sound)
    before = await renderer.render([talk("Why?")], CUTTING, size=9)
    parent = psutil.Process(renderer.pid).parent()
    parent.kill()
    psutil.wait_procs([psutil.Process(parent.pid)] if psutil.pid_exists(parent.pid) else [], 5)

    after = await renderer.render([talk("Why?")], CUTTING, size=9)
    renderer.stop()

    assert after[0].ids.tolist() == before[0].ids.tolist()


async def test_a_model_without_a_tokenizer_of_its_own_is_restored_too(loader, sound, tmp_path):
    """A policy's reference renders as the policy does."""
    policy = (await loader.resolve(str(sound))).models[0]
    reference = replace(
        policy, name="reference", checkpoint=replace(policy.checkpoint, folder=tmp_path)
    )
    await loader.begin_to_render([policy, reference])
    loader._process.kill()

    renderer = Renderer(reference, loader, WakeupThrottle(), lambda _: None)
    (found,) = await renderer.render([talk("Why?")], CUTTING, size=9)
    renderer.stop()

    assert len(found.ids) > 1


async def test_a_tokenizer_that_was_replaced_meanwhile_is_not_taken(loader, sound, tmp_path):
    """Else items would be of another model than the answer says."""
    folder = bring(sound, tmp_path / "replaced", CHAT)
    renderer, _ = await renderer_of(loader, folder)
    await renderer.render([talk("Why?")], CUTTING, size=9)
    (folder / "chat_template.jinja").write_text(CHAT + "!")
    psutil.Process(renderer.pid).parent().kill()

    psutil.wait_procs([psutil.Process(renderer.pid)], timeout=10)

    with pytest.raises(NotReady, match=r"was replaced in .*; reload to serve it"):
        await renderer.render([talk("Why?")], CUTTING, size=9)
    renderer.stop()


async def test_what_does_not_come_to_an_end_while_it_is_read_is_refused(
    wanted, sound, tmp_path, monkeypatch
):
    """By the clock, whatever it is; the next start is not held up."""
    folder = bring(sound, tmp_path / "endless", CHAT)
    loop = "{% for i in range(9999) %}{% for j in range(9999) %}{% for k in range(9999) %}x"
    (folder / "chat_template.jinja").write_text(loop + 3 * "{% endfor %}")

    async with Loader(wanted, timeout_s=1.5) as loader:
        with pytest.raises(
            CheckpointError, match=r"takes longer than load_timeout_s, 1\.5 seconds"
        ):
            await loader.resolve(str(folder))
        assert loader._process is None


async def test_a_number_that_no_frame_holds_is_named(loader, sound, tmp_path):
    """It isn't taken for a file over which the process died."""
    folder = bring(sound, tmp_path / "large", CHAT)
    (folder / "card.toml").write_text("[limits]\nmax_tokens = 99999999999999999999\n")

    with pytest.raises(CheckpointError, match="has more than 64 bits"):
        await loader.resolve(str(folder))
    assert (await loader.resolve(str(sound))).models


async def test_no_process_is_left_over(wanted, sound):
    """Neither the one that reads nor those that render."""
    async with Loader(wanted, timeout_s=60) as loader:
        renderer, _ = await renderer_of(loader, sound)
        await renderer.render([talk("Why?")], CUTTING, size=9)
        child = psutil.Process(renderer.pid)
        parent = child.parent()
        names = {name for one in (child, parent) for name in one.environ() if "ASSAY" in name}
        renderer.stop()

    _, left = psutil.wait_procs([child, parent], timeout=10)
    assert not left
    assert names == {"ASSAY_SCRATCH"}


async def test_what_a_killed_process_wrote_is_the_fronts(wanted, sound, tmp_path, monkeypatch):
    """A link to a folder that Rust can't name: it leads on, and the front removes it."""
    strange = checkpoints.copy(sound, tmp_path / os.fsdecode(b"bad\xff"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    scratch.folder.cache_clear()

    async with Loader(wanted, timeout_s=60) as loader:
        renderer, _ = await renderer_of(loader, strange)
        loader._process.kill()
        loader._process.wait()
        await renderer.render([talk("Why?")], CUTTING, size=9)
        renderer.stop()
    (link,) = scratch.folder().iterdir()
    leads_to = link.resolve()
    made = list((tmp_path / "tmp").iterdir())
    scratch.remove()

    assert leads_to == strange.resolve()
    assert made == [link.parent]
    assert not made[0].exists()
