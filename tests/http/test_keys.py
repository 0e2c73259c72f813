"""Keys: every route but health is closed without one, and open to those with the right to it."""

from __future__ import annotations

import os
import re
import signal
import tomllib
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.contract.cases import form
from tests.http import processes
from tests.http.conftest import KEYS
from tests.http.processes import WAIT_S, serving, until
from tests.http.texts import PAIR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.http.processes import Server

LOAD_S = 4 * WAIT_S
OPEN = {
    *("/health", "/health/live", "/health/ready"),
    *("/ping", "/health_generate", "/v2/health/live", "/v2/health/ready"),
}
CHANGES = {"/admin/load", "/admin/unload", "/admin/reload"}
RIGHTS = ("score", "metrics", "admin")
BESIDES = [("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/nope"), ("POST", "/v1/score")]
REFUSED = [
    {},
    {"Authorization": "Bearer wrong"},
    {"Authorization": "Bearer"},
    {"Authorization": f"Basic {KEYS[0]}"},
    {"Authorization": KEYS[0]},
    {"Authorization": f"Bearer {KEYS[0]}x"},
    {"Authorization": f"Bearer {','.join(KEYS)}"},
    {"Authorization": "Bearer caf\xe9"},
    {"X-Api-Key": "wrong"},
    {"X-Api-Key": ""},
]
ACCEPTED = [
    {"Authorization": f"Bearer {KEYS[0]}"},
    {"authorization": f"bearer  {KEYS[1]}"},
    {"X-Api-Key": KEYS[0]},
    {"x-api-key": KEYS[1]},
]


@pytest.fixture
def anyone(narrow: Server) -> Iterator[httpx.Client]:
    """A client without a key."""
    with httpx.Client(base_url=narrow.url) as client:
        yield client


@pytest.fixture
def closed(narrow: Server) -> list[tuple[str, str]]:
    """Every route of the schema but health, and some that aren't in it."""
    return routes(narrow.http) + BESIDES


def routes(http: httpx.Client) -> list[tuple[str, str]]:
    """Return every route of the schema but health."""
    found = [
        (method.upper(), path.replace("{name}", "tiny"))
        for path, methods in http.get("/openapi.json").json()["paths"].items()
        for method in methods
        if path not in OPEN
    ]
    assert ("POST", "/score") in found
    assert ("GET", "/metrics") in found
    assert ("POST", "/get_reward") in found
    assert {("POST", path) for path in CHANGES} < set(found)
    return found


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def encoded(headers: dict[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): value.encode("latin-1") for name, value in headers.items()}


@pytest.mark.parametrize("headers", REFUSED, ids=str)
def test_without_a_known_key_every_route_but_health_is_closed(
    anyone: httpx.Client, closed: list[tuple[str, str]], headers: dict[str, str]
) -> None:
    """401 and how to send a key, known route or not; the key isn't repeated."""
    for method, path in closed:
        answer = anyone.request(method, path, headers=encoded(headers))

        assert answer.status_code == 401, path
        assert "Authorization: Bearer KEY" in answer.text
        assert answer.headers["www-authenticate"] == "Bearer"
        assert KEYS[0] not in answer.text
    refused = anyone.post("/score", headers=encoded(headers)).json()
    assert refused["error"]["code"] == "unauthorized"
    for path in OPEN:
        assert anyone.get(path, headers=encoded(headers)).status_code == 200


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", "/invocations"])
def test_a_rerank_without_a_key_is_not_called_an_error_of_the_server(
    anyone: httpx.Client, path: str
) -> None:
    """vLLM's and Cohere's clients tell by the type and the code that another try won't help."""
    answer = anyone.post(path, json={"query": "a", "documents": ["b"]})

    said = answer.json()
    assert (answer.status_code, said["error"]["code"]) == (401, 401)
    assert said["error"]["type"] == "UnauthorizedError"


@pytest.mark.parametrize("headers", ACCEPTED, ids=str)
def test_either_key_opens_every_route_in_either_header(
    anyone: httpx.Client, closed: list[tuple[str, str]], headers: dict[str, str]
) -> None:
    """Any of the keys does, as bearer token or as `x-api-key`."""
    for method, path in closed:
        answer = anyone.request(method, path, headers=headers)

        expected = {"POST": 400, "GET": 404 if path == "/nope" else 200}
        assert answer.status_code == (403 if path in CHANGES else expected[method]), path
    assert anyone.post("/score", json=PAIR, headers=headers).status_code == 200


def test_keys_are_neither_logged_nor_shown(narrow: Server) -> None:
    """The log of a server that was asked with its keys doesn't hold them."""
    narrow.score(**PAIR)
    narrow.http.get("/models/tiny")

    until("it is written", lambda: "GET /models/tiny 200" in narrow.log.read_text())
    log = narrow.log.read_text()

    assert "POST /score 200" in log
    assert not [key for key in KEYS if key in log]


def made(folder: Path, *arguments: str) -> tuple[str, str]:
    """Return what `assay key` makes: a key, and its entry."""
    done = processes.run("key", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stderr.strip(), done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the key file and the settings file of `ringed` are."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def ring(folder: Path) -> dict[str, str]:
    """A key of each right, by the right, which is also its name; their entries are in the file."""
    pairs = {right: made(folder, right, "--rights", right) for right in RIGHTS}
    (folder / "keys.toml").write_text("".join(entry for _, entry in pairs.values()))
    return {right: key for right, (key, _) in pairs.items()}


@pytest.fixture(scope="module")
def ringed(folder: Path, ring: dict[str, str], tiny: Path) -> Iterator[Server]:
    """A server of that file, whose health is closed, too."""
    config = folder / "assay.toml"
    config.write_text(
        f'key_file = "{folder}/keys.toml"\nopen_health = false\nlog_level = "error"\n'
        "unauthorized_per_minute = inf\n"
    )
    with serving(folder / "run", tiny, key=ring["score"], config=config) as server:
        yield server


def test_every_route_is_open_to_its_right_alone(ringed: Server, ring: dict[str, str]) -> None:
    """401 with no key and with a wrong one, 403 with that of another right, in the same shape."""
    walked = [*routes(ringed.http), *BESIDES, ("POST", "/admin/nope"), ("OPTIONS", "/score")]

    for method, path in walked:
        needed = "metrics" if path == "/metrics" else "score"
        needed = "admin" if path.startswith("/admin/") else needed
        answers = {
            right: ringed.http.request(method, path, headers=bearer(key), timeout=LOAD_S)
            for right, key in ring.items()
        }
        wrong = httpx.request(method, ringed.url + path, headers=bearer("wrong"))
        none = httpx.request(method, ringed.url + path)

        if path.startswith(("/models", "/v1/models")):
            assert answers.pop("admin").status_code in {200, 404, 405}, path
        opened = answers.pop(needed)
        assert opened.status_code in {200, 400, 404, 405}, (path, opened.text)
        assert [one.status_code for one in (none, wrong)] == [401, 401], path
        assert {one.status_code for one in answers.values()} == {403}, path
        assert none.headers["www-authenticate"] == "Bearer"
        for refused in answers.values():
            assert f"right '{needed}'" in refused.text
            assert form(refused.json()) == form(none.json())
            assert not [key for key in ring.values() if key in refused.text]


@pytest.mark.parametrize("end", ["%0a", "%0a/", "%0D", "%00", "/%0a"])
@pytest.mark.parametrize("path", ["/metrics", "/models", "/health/live", "/admin/load"])
def test_no_path_with_control_characters_is_a_route(
    ringed: Server, ring: dict[str, str], path: str, end: str
) -> None:
    """An expression's `$` also fits before a newline: what needs a right would be another path."""
    answers = [ringed.http.get(path + end, headers=bearer(key)) for key in ring.values()]

    known = {one.status_code: one.json()["error"]["code"] for one in answers}
    assert known.items() <= {404: "unknown_route", 403: "forbidden"}.items()
    assert 404 in known


@pytest.mark.parametrize("path", sorted(OPEN))
def test_closed_health_is_open_to_any_key(ringed: Server, ring: dict[str, str], path: str) -> None:
    """401 without, by GET and by HEAD."""
    for method in ("GET", "HEAD"):
        anyone = httpx.request(method, ringed.url + path)
        keyed = [ringed.http.request(method, path, headers=bearer(key)) for key in ring.values()]

        assert anyone.status_code == 401
        assert [one.status_code for one in keyed] == [200] * 3


def test_an_upgrade_is_no_way_around_keys(ringed: Server) -> None:
    """A websocket's first request is a request as any other."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }

    answers = [httpx.get(ringed.url + path, headers=upgrade) for path in ("/score", "/docs", "/")]

    assert [one.status_code for one in answers] == [401] * 3


def test_who_changes_what_is_on_record(ringed: Server, ring: dict[str, str]) -> None:
    """By name: who did, and who was refused; at any level of the log."""
    load = {"url": "/admin/load", "json": {"model": "nobody/nothing\nat all"}}

    ringed.http.post(**load, headers=bearer(ring["admin"]), timeout=LOAD_S)
    ringed.http.post(**load, headers=bearer(ring["score"]))
    httpx.post(ringed.url + "/admin/nope", headers=bearer("wrong"))

    for said in (
        "'nobody/nothing\\nat all': change_refused by=admin id=",
        "'/admin/load' refused to score",
        "'/admin/nope' refused to an unknown caller",
    ):
        until(f"it is on record: {said}", lambda said=said: said in ringed.log.read_text())


def test_a_key_learns_nothing_of_anothers_prompt(
    ringed: Server, ring: dict[str, str], folder: Path
) -> None:
    """Guesses of how it begins cost what any other text costs, whatever is kept of it."""
    file = folder / "keys.toml"
    kept = file.read_text()
    key, entry = made(folder, "neighbour", "--rights", "score")
    file.write_text(kept + entry)
    secret = "The number of the vault is 4711 and nobody else may ever learn of it."

    def shared(with_key: str, text: str) -> int:
        answer = ringed.http.post(
            "/score", json={"inputs": {"text": text}}, headers=bearer(with_key)
        ).raise_for_status()
        return int(answer.json()["usage"]["shared_tokens"])

    def status(with_key: str) -> int:
        return ringed.http.get("/models", headers=bearer(with_key)).status_code

    until("the neighbour is let in", lambda: status(key) == 200)
    assert shared(ring["score"], secret) == 0
    right, wrong = f"{secret[:60]} Or not?", secret[::-1]
    told = [shared(key, guess) for guess in (right, wrong)]
    own = [shared(ring["score"], guess) for guess in (right, wrong)]
    file.write_text(kept)
    until("the neighbour is gone", lambda: status(key) == 401)

    assert told == [0, 0]
    assert own[0] > own[1] == 0


def test_a_key_takes_over_from_another_of_its_name(
    ringed: Server, ring: dict[str, str], folder: Path
) -> None:
    """`assay key --file` adds the new one; both are good until the old entry is removed."""
    file = folder / "keys.toml"
    kept = file.read_text()

    def status(key: str) -> int:
        return ringed.http.get("/models", headers=bearer(key)).status_code

    key, said = made(folder, "score", "--file", str(file))
    until("the new key is good", lambda: status(key) == 200)
    assert status(ring["score"]) == 200
    assert "keys.toml" in said
    assert key not in said
    file.write_text(file.read_text().removeprefix(kept.rstrip()))
    until("the old one is not", lambda: status(ring["score"]) == 401)
    assert status(key) == 200
    file.write_text(kept)
    until("it is again", lambda: status(ring["score"]) == 200)


def counted(ring: dict[str, str], ringed: Server, outcome: str) -> int:
    """Return how many changes of the key file ended so."""
    text = ringed.http.get("/metrics", headers=bearer(ring["metrics"])).text
    (value,) = re.findall(
        rf'assay_changes_total{{outcome="{outcome}",source="key_file"}} (\d+)', text
    )
    return int(value)


def test_keys_come_and_go_without_a_restart(
    ringed: Server, ring: dict[str, str], folder: Path
) -> None:
    """The file is read again when it changes; a mistake in it changes nothing."""
    file = folder / "keys.toml"
    kept = file.read_text()
    key, entry = made(folder, "newcomer", "--rights", "score")

    def status(with_key: str) -> int:
        return ringed.http.get("/models", headers=bearer(with_key)).status_code

    assert (status(key), status(ring["score"])) == (401, 200)
    file.write_text(entry)
    until("the newcomer is let in", lambda: status(key) == 200)
    assert status(ring["score"]) == 401
    file.write_text("[[keys]]\nname =")
    until("it is told", lambda: "the keys stay as they were" in ringed.log.read_text())
    assert (status(key), status(ring["score"])) == (200, 401)
    file.write_text(kept)
    until("the others are back", lambda: status(ring["score"]) == 200)
    assert status(key) == 401
    assert counted(ring, ringed, "refused") == 1
    assert counted(ring, ringed, "ok") >= 2
    assert f"assay.audit '{file}': ok" in ringed.log.read_text()
    assert f"assay.audit '{file}': settings_error" in ringed.log.read_text()


def test_keys_are_read_again_with_the_settings(
    ringed: Server, ring: dict[str, str], folder: Path
) -> None:
    """On SIGHUP; a key file that can't be read changes nothing."""
    config = folder / "assay.toml"
    kept = config.read_text()

    def reads(text: str) -> None:
        config.write_text(text)
        os.kill(ringed.process.pid, signal.SIGHUP)

    def status(headers: dict[str, str]) -> int:
        return httpx.get(ringed.url + "/models", headers=headers).status_code

    reads(f'key_file = "{folder}/nowhere.toml"\n')
    until("it is told", lambda: "nowhere.toml can't be read" in ringed.log.read_text())
    assert status(bearer(ring["score"])) == 200
    reads("")
    until("it is told", lambda: "would let anyone in" in ringed.log.read_text())
    assert status({}) == 401
    assert status(bearer(ring["score"])) == 200
    reads('api_key = "plain"\n')
    until("the plain key is let in", lambda: status(bearer("plain")) == 200, LOAD_S)
    assert status(bearer(ring["score"])) == 401
    assert httpx.get(ringed.url + "/health").status_code == 200
    reads(kept)
    until("the others are back", lambda: status(bearer(ring["score"])) == 200, LOAD_S)
    assert status(bearer("plain")) == 401


def test_no_key_is_in_the_log(ringed: Server, ring: dict[str, str]) -> None:
    """Nor is its hash."""
    log = ringed.log.read_text()

    assert "assay.audit" in log
    assert not [key for key in ring.values() if key in log]
    assert "sha256" not in log


def test_a_key_is_shown_once_beside_its_entry(tmp_path: Path) -> None:
    """The entry holds its name, its rights, its end and not the key."""
    key, entry = made(tmp_path, "a.b-c", "--rights", "score, metrics", "--expires", "2031-01-31")
    other, _ = made(tmp_path, "a.b-c")

    (one,) = tomllib.loads(entry)["keys"]
    assert key != other
    assert len(key) > 43
    assert key not in entry
    assert (one["name"], one["rights"]) == ("a.b-c", ["score", "metrics"])
    assert one["expires"].isoformat() == "2031-01-31T00:00:00+00:00"


@pytest.mark.parametrize(
    "arguments",
    [("a b",), ("",), ("a" * 65,), ("a", "--rights", "write"), ("a", "--expires", "soon")],
)
def test_a_key_that_could_not_be_read_is_not_made(tmp_path: Path, arguments: Any) -> None:
    """A usage error, and nothing to put into the file."""
    done = processes.run("key", *arguments, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")


def test_a_wrong_key_file_ends_the_process_with_3(tiny: Path, tmp_path: Path) -> None:
    """A server isn't left open because its keys couldn't be read."""
    done = processes.run("serve", "--port", "0", tiny, cwd=tmp_path, key_file="nowhere.toml")

    assert done.returncode == 3
    assert "the key file nowhere.toml can't be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_short_key_stops_the_start_where_other_machines_may_guess(tmp_path: Path) -> None:
    """With exit code 3, and without the key."""
    done = processes.run("serve", "--port", "0", cwd=tmp_path, host="0.0.0.0", api_key="zzz-key")

    assert done.returncode == 3
    assert "number 1 of api_key has 7 bytes" in done.stderr
    assert "zzz" not in done.stderr
