"""The `assay` command: what it prints, and that a file is scored as HTTP scores it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

import assay
from assay.cards.card import Card
from assay.cli import serve
from assay.cli.app import app
from assay.cli.serve import in_url
from assay.scoring.targets import Target, Targets
from assay.settings import Settings
from tests.http.conftest import KEYS
from tests.http.processes import COMMAND, WAIT_S, environment, run, until
from tests.http.texts import FORMS, PROMPT, RESPONSES, many

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.processes import Server

PAIRS = [
    {"prompt": PROMPT, "chosen": RESPONSES[0], "rejected": RESPONSES[1], "id": "pair"},
    {"prompt": PROMPT, "responses": RESPONSES},
]
BAD: dict[str, Any] = {"prompt": PROMPT}
LINES: list[dict[str, Any]] = [*FORMS, *PAIRS, {**BAD, "note": "kept"}, *many(5)]


def write(folder: Path, lines: list[Any]) -> Path:
    """Write a JSONL file."""
    file = folder / "items.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def answered(server: Server) -> list[dict[str, Any]]:
    """Return HTTP's entry for each line; None for the bad one."""
    entries = []
    for line in LINES:
        kind, route = ("comparisons", "/compare") if line in PAIRS else ("inputs", "/score")
        body = {kind: [line], "include": ["members"]}
        if "note" not in line:
            entries += server.http.post(route, json=body).json()["data"]
        else:
            entries.append(None)
    return entries


def check(lines: list[dict[str, Any]], expected: list[Any]) -> None:
    """Assert that a scored file has HTTP's own numbers, line by line."""
    assert [line.pop("index") for line in lines] == list(range(len(LINES)))
    assert len({(line.pop("model"), line.pop("revision")) for line in lines}) == 1
    for line, entry in zip(lines, expected, strict=True):
        if entry is None:
            assert line["error"]["code"] == "invalid_field"
            assert "'response' is missing" in line["error"]["message"]
            assert line["note"] == "kept"
        else:
            assert line == {key: value for key, value in entry.items() if key != "index"}


def test_the_version_and_the_help_are_printed(tmp_path: Path) -> None:
    """`--version` prints one line; `--help` names every command."""
    version = run("--version", cwd=tmp_path)
    usage = run("--help", cwd=tmp_path)

    assert (version.returncode, version.stdout) == (0, f"assay {assay.__version__}\n")
    assert usage.returncode == 0
    for command in ("serve", "score", "models", "inspect", "verify", "config"):
        assert command in usage.stdout


def test_models_lists_the_repository_and_what_comes_with_assay(tiny: Path, tmp_path: Path) -> None:
    """A folder of the repository is listed beside the embedded starter."""
    listed = run("models", "--repository", tiny.parent, cwd=tmp_path)

    rows = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert listed.returncode == 0
    assert "ensemble of 3" in rows["starter"]
    assert "a score" in rows["tiny"]
    assert "here" in rows["tiny"]
    assert "Qwen/Qwen2.5-Math-PRM-7B" in rows["qwen2.5-math-prm-7b"]


def test_config_prints_each_setting_with_where_it_came_from(tmp_path: Path) -> None:
    """File, environment and default are told apart; a key is not printed."""
    (tmp_path / "assay.toml").write_text("port = 8123\nmax_tokens = 77\n")

    shown = run("config", cwd=tmp_path, max_tokens=99, api_key="zzz-key")

    rows = {line.split()[0]: line.split() for line in shown.stdout.splitlines()}
    assert shown.returncode == 0
    assert rows["port"][1:3] == ["8123", "assay.toml"]
    assert rows["max_tokens"][1:3] == ["99", "environment"]
    assert rows["host"][1:3] == ["127.0.0.1", "default"]
    assert "zzz" not in shown.stdout


def test_a_wrong_setting_ends_the_command_with_3(tmp_path: Path) -> None:
    """`assay config` itself refuses what `assay serve` would."""
    ended = run("config", cwd=tmp_path, prot=1)

    assert ended.returncode == 3
    assert "unknown setting 'prot' in the environment; did you mean 'port'?" in ended.stderr


def test_a_file_is_scored_by_a_server_as_its_items_are(narrow: Server, tmp_path: Path) -> None:
    """Every line has the bits of its own request; the key comes from ASSAY_API_KEY."""
    file = write(tmp_path, LINES)

    ended = run(
        "score", file, "--url", narrow.url, "--batch", "4", cwd=tmp_path, api_key=",".join(KEYS)
    )

    assert ended.returncode == 1, ended.stderr
    assert f"{len(LINES)} lines" in ended.stdout
    bad = next(number for number, line in enumerate(LINES, 1) if "note" in line)
    assert "1 errors" in ended.stdout
    assert f"1 × invalid_field, the first at line {bad}: " in ended.stdout
    assert "over 1 pairs" in ended.stdout
    check(read(tmp_path / "items.scores.jsonl"), answered(narrow))


def test_a_file_is_scored_here_as_a_server_scores_it_and_resumes(
    narrow: Server, tiny: Path, tmp_path: Path
) -> None:
    """After a cut within a line, only what is missing is scored again, to the same bytes."""
    file, output = write(tmp_path, LINES), tmp_path / "out[heads.reward].jsonl"
    command = ("score", file, "--output", output, "--model", tiny, "--threads", "1")
    first = run(*command, cwd=tmp_path, device="cpu")
    assert first.returncode == 1, first.stderr
    assert f"-> {output}\n" in first.stdout
    whole = output.read_bytes()
    check(read(output), answered(narrow))
    kept = whole.splitlines(keepends=True)[:5]
    output.write_bytes(b"".join(kept) + whole.splitlines()[5][:20])

    second = run(*command, cwd=tmp_path, device="cpu")

    assert second.returncode == 1, second.stderr
    assert f"{len(LINES)} lines ({len(LINES) - 5} of them now)" in second.stdout
    assert first.stdout.splitlines()[1:] == second.stdout.splitlines()[1:]  # of the whole file
    assert output.read_bytes() == whole


@pytest.mark.parametrize("broken", ['{"half": ', "[]"])
def test_a_file_that_isnt_json_is_refused_by_line(
    narrow: Server, tmp_path: Path, broken: str
) -> None:
    """The number of the line is named, and the exit code is 1."""
    file = tmp_path / "broken.jsonl"
    file.write_text(f'{{"text": "a"}}\n{broken}\n')

    ended = run("score", file, "--url", narrow.url, cwd=tmp_path, api_key=KEYS[0])

    assert ended.returncode == 1
    assert "line 2 is not" in ended.stderr


def test_a_server_that_refuses_or_isnt_there_ends_the_command_with_1(
    narrow: Server, tmp_path: Path
) -> None:
    """The server's own words are printed; an unreachable one is said to be."""
    file = write(tmp_path, LINES)

    refused = run("score", file, "--url", narrow.url, cwd=tmp_path, api_key="wrong")
    unknown = run(
        "score", file, "--url", narrow.url, "--model", "nope", cwd=tmp_path, api_key=KEYS[1]
    )
    absent = run("score", file, "--url", "http://127.0.0.1:9", cwd=tmp_path)

    assert (refused.returncode, unknown.returncode, absent.returncode) == (1, 1, 1)
    assert "send a valid API key" in refused.stderr
    assert "no model 'nope' is served" in unknown.stderr
    assert "can't be reached" in absent.stderr
    assert not (tmp_path / "items.scores.jsonl").exists()


def test_a_finished_file_is_summed_up_and_never_mixed(narrow: Server, tmp_path: Path) -> None:
    """Another model, an unknown one and a dead server end with 1, the same with the same words."""
    file = write(tmp_path, [*many(3), PAIRS[0]])

    def score(*options: str, url: str = narrow.url) -> Any:
        return run("score", file, "--url", url, *options, cwd=tmp_path, api_key=KEYS[0])

    first, again = score("--model", "tiny"), score()
    other, unknown = score("--model", "bare"), score("--model", "nope")
    dead = score(url="http://127.0.0.1:9")

    assert (first.returncode, again.returncode) == (0, 0), first.stderr
    assert "4 lines (0 of them now)" in again.stdout
    assert again.stdout.splitlines()[1:] == first.stdout.splitlines()[1:]
    assert [one.returncode for one in (other, unknown, dead)] == [1, 1, 1]
    assert "holds 4 lines of model tiny (now bare), revision" in other.stderr
    assert "no model 'nope' is served" in unknown.stderr
    assert "can't be reached" in dead.stderr


def test_an_interrupted_run_says_what_is_kept(narrow: Server, tmp_path: Path) -> None:
    """And how to go on; what was scored is there."""
    file = write(tmp_path, many(40))
    output = tmp_path / "items.scores.jsonl"
    with narrow.held():
        process = subprocess.Popen(
            [*COMMAND, "score", str(file), "--url", narrow.url],
            cwd=tmp_path,
            env=environment(api_key=KEYS[0]),
            stderr=subprocess.PIPE,
            text=True,
        )
        until("it has begun", (tmp_path / "items.scores.jsonl.state.json").exists)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=WAIT_S)

    assert process.returncode == 130
    assert said == f"0 of 40 lines are in {output}; run the same command again to go on\n"
    ended = run("score", file, "--url", narrow.url, cwd=tmp_path, api_key=KEYS[0])
    assert (ended.returncode, len(read(output))) == (0, 40)


# A signal may reach another thread, or come just before the loop goes to sleep.
INTERRUPTED_ELSEWHERE = """
import asyncio, os, signal, sys, threading, time, typer
from assay.cli.app import run

threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

async def work():
    asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGINT)
    try:
        await asyncio.sleep(3600)
    finally:
        print("cancelled")

try:
    run(work())
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


INTERRUPTED_EARLY = """
import sys
from assay import __main__ as command

def interrupted():
    raise KeyboardInterrupt

command._run = interrupted
command.main()
"""


@pytest.mark.parametrize(
    ("program", "printed"),
    [(INTERRUPTED_ELSEWHERE, "cancelled\n"), (INTERRUPTED_EARLY, "")],
    ids=["asleep", "imported"],
)
def test_an_interruption_ends_a_command_whatever_it_is_at(
    tmp_path: Path, program: str, printed: str
) -> None:
    """What was begun is cancelled, not cut off; no traceback, and a shell's own code."""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (130, printed, "")


@pytest.mark.parametrize("arguments", [("key", "x"), ("models", "--json"), ("--help",)])
def test_what_can_not_be_printed_is_said_in_one_line(tmp_path: Path, arguments: Any) -> None:
    """Where standard output goes to a disk that is full."""
    with open("/dev/full", "w") as full:  # noqa: PTH123  a device
        ended = subprocess.run(
            [*COMMAND, *arguments],
            cwd=tmp_path,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=WAIT_S,
            check=False,
        )

    *before, last = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert last == "assay: what is printed can't be written: No space left on device"
    assert len(before) == (arguments[0] == "key")  # the key itself


def test_a_command_needs_no_standard_output(tmp_path: Path) -> None:
    """As under a supervisor that closed it."""
    ended = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" "$@" >&-', *COMMAND, "key", "x", "--file", "keys.toml"],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        timeout=WAIT_S,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "[[keys]]" in (tmp_path / "keys.toml").read_text()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--include", "everything"), "'members', 'attributes', 'steps'"),
        (("--rule", "best"), "'mean', 'median', 'min'"),
        (("--activation", "relu"), "'none' or 'sigmoid'"),
    ],
)
def test_an_option_that_there_isnt_is_refused_with_those_that_there_are(
    tmp_path: Path, option: tuple[str, str], says: str
) -> None:
    """Before anything is loaded or asked."""
    ended = run("score", write(tmp_path, many(1)), *option, cwd=tmp_path)

    assert ended.returncode == 2
    assert says in ended.stderr


@pytest.mark.parametrize(
    ("host", "written"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("judge.example", "judge.example"),
        ("::1", "[::1]"),
        ("::", "[::]"),
        ("fe80::1%eth0", "[fe80::1%25eth0]"),
    ],
)
def test_an_address_of_ipv6_is_written_as_urls_have_it(host: str, written: str) -> None:
    """In brackets (RFC 3986, 3.2.2): the address that is printed can be copied."""
    assert in_url(host) == written
    assert httpx.URL(f"http://{in_url(host)}:8000").port == 8000


async def test_a_server_on_ipv6_says_where_in_a_url(capsys: pytest.CaptureFixture[str]) -> None:
    """What it prints once it is ready, and what it says where nobody can listen."""
    nobody = "2001:db8::1"  # an address for documents, no machine's
    targets = Targets({"judge": Target("judge", Card(), (), "ensemble", "r")})
    served = SimpleNamespace(ready=lambda: asyncio.sleep(0), targets=targets)
    opened = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with opened:
        port = opened.sockets[0].getsockname()[1]
        server = SimpleNamespace(servers=[opened])
        await serve._announce(
            SimpleNamespace(scorer=SimpleNamespace(served=served)), server, Settings(host="::1")
        )
    with pytest.raises(typer.Exit):
        serve._sockets(Settings(host=nobody, port=8123))

    said = capsys.readouterr().err
    assert f"ready judge on http://[::1]:{port} " in said
    assert f"nobody can listen on [{nobody}]:8123: " in said


def test_a_malformed_proxy_is_one_sentence(tmp_path: Path) -> None:
    """`assay score --url` names the variable, not its value, and ends with 1."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    clean = dict.fromkeys([*names, *map(str.lower, names)])
    command = ["score", str(write(tmp_path, many(1))), "--url", "http://judge.invalid"]

    done = CliRunner().invoke(app, command, env={**clean, "HTTP_PROXY": "http://secret:99999"})

    assert done.exit_code == 1
    error, rest = done.stderr.splitlines()
    assert error.startswith("error the variable HTTP_PROXY is not the address of a proxy; ")
    assert rest == "nothing was scored"
    assert "secret" not in done.output


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--device", "cpu"),
        ("--dtype", "float32"),
        ("--quantize", "int8"),
        ("--threads", "1"),
        ("--repository", "models"),
        ("--config", "assay.toml"),
    ],
)
def test_how_a_model_is_loaded_is_no_matter_of_a_running_server(
    tmp_path: Path, option: str, value: str
) -> None:
    """With `--url` these options would do nothing: they are refused by their names."""
    file = write(tmp_path, LINES)

    done = CliRunner().invoke(app, ["score", str(file), "--url", "http://a:1", option, value])

    assert done.exit_code == 2
    assert option in done.output
