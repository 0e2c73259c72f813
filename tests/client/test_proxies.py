import asyncio
import logging

import httpx
import pytest

from assay import AsyncClient, Client
from assay.client import proxies
from assay.client.adapters import connection, trl
from assay.errors import DeadlineExceeded, InvalidField, NotReady, ServiceError
from tests.client.judge import Judge, served

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
ITEM = ("Why?", "Because of 1")
DEAD = "http://user:secret@127.0.0.1:9"  # nobody listens there
HERE = ["127.0.0.1", "127.9.9.9", "127.1", "0.0.0.0", "localhost", "LocalHost.", "[::1]", "[::]"]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Start without proxies; yield what sets them."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    yield monkeypatch.setenv
    connection.close()


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("value", [DEAD, "foo", ":::", "socks5://127.0.0.1:9", "socks4://x"])
def test_a_server_on_this_machine_is_asked_directly(environment, variable, value):
    """By every client and adapter, whatever the variables hold."""
    environment(variable, value)
    environment("NO_PROXY", "[::1,example.com")
    with served(Judge()) as url, Client(url) as client:
        assert client.score(ITEM).score == 1.0
        assert trl.reward(url)(prompts=["Why?"], completions=["Because of 2"]) == [2.0]

        async def ask():
            async with AsyncClient(url.replace("127.0.0.1", "localhost")) as other:
                return (await other.score(ITEM)).score

        assert asyncio.run(ask()) == 1.0


@pytest.mark.parametrize("host", HERE)
def test_this_machine_has_many_names(environment, host):
    """None of them is a proxy's affair."""
    environment("ALL_PROXY", "http://proxy:3128")
    assert proxies.of(f"http://{host}:8000") is None


def through(proxy, environment, host="judge.invalid:8000", **options):
    """Ask for a score through a proxy; return the error."""
    environment("HTTP_PROXY", proxy)
    with (
        Client(f"http://{host}", **{"retries": 0, **options}) as client,
        pytest.raises((NotReady, ServiceError, DeadlineExceeded)) as caught,
    ):
        client.score(ITEM)
    assert "secret" not in caught.value.message
    return caught.value.message


def test_a_proxy_that_can_not_be_reached_is_named(environment):
    """With the variable and the way past it, without its password."""
    message = through(DEAD, environment)
    assert message.startswith("the server can't be reached: ")
    assert message.endswith(
        "; it was asked through the proxy http://127.0.0.1:9 of HTTP_PROXY; add judge.invalid to "
        "NO_PROXY if it needs none"
    )


def test_a_proxy_that_answers_itself_is_named(environment):
    """A page of its own is not the server's."""
    refusing = Judge((403, {}, b"<html>blocked</html>"))
    with served(refusing) as url:
        assert f"the proxy {url} of HTTP_PROXY" in through(url, environment)


def test_a_proxy_that_says_nothing_is_named(environment):
    """Until the deadline; who knows which of the two was silent."""
    with served(Judge(delay_s=0.5)) as url:
        message = through(url, environment, deadline_s=0.1)
    assert f"the proxy {url} of HTTP_PROXY" in message


def test_a_proxy_is_asked_for_others(environment):
    """That is what it is there for: the stub answers for any host."""
    judge = Judge()
    with served(judge) as url:
        environment("HTTP_PROXY", url)
        with Client("http://judge.invalid:8000") as client:
            assert client.score(ITEM).score == 1.0
    assert len(judge.bodies) == 1


@pytest.mark.parametrize(
    ("listed", "is_spared"),
    [
        ("judge.example.com", True),
        ("example.com", True),
        (".example.com", True),
        ("*.example.com", True),
        ("other, JUDGE.example.com:8000", True),
        ("judge.example.com:9000", False),
        ("ample.com", False),
        ("*", True),
        ("", False),
        ("[::1", False),
    ],
)
def test_hosts_are_spared_as_everywhere(environment, listed, is_spared):
    """Domains with what is below them, with a port or without."""
    environment("HTTP_PROXY", "http://proxy:3128")
    environment("NO_PROXY", listed)
    assert (proxies.of("http://judge.example.com:8000") is None) == is_spared


@pytest.mark.parametrize(
    ("listed", "host", "is_spared"),
    [
        ("10.0.0.0/8", "10.2.3.4", True),
        ("10.0.0.0/8", "11.2.3.4", False),
        ("fd00::/8", "[fd00::1]", True),
        ("[fd00::1]:8000", "[fd00::1]", True),
        ("10.2.3.4", "10.2.3.4", True),
    ],
)
def test_networks_are_spared(environment, listed, host, is_spared):
    """As clusters list those of their pods and services."""
    environment("HTTP_PROXY", "http://proxy:3128")
    environment("NO_PROXY", listed)
    assert (proxies.of(f"http://{host}:8000") is None) == is_spared


def test_an_entry_that_is_no_host_is_told(environment, caplog):
    """The others hold."""
    environment("HTTP_PROXY", "http://proxy:3128")
    environment("NO_PROXY", "[::1,example.com")
    with caplog.at_level(logging.WARNING, "assay.client"):
        assert proxies.of("http://example.com") is None
    assert "NO_PROXY has '[::1', which is no host" in caplog.text


@pytest.mark.parametrize(
    "value", ["http://", ":::", "http://h:99999", "ftp://proxy", "http://[::1"]
)
def test_a_variable_that_holds_no_address_is_named(environment, value):
    """Not its value: that may be a password."""
    environment("HTTP_PROXY", value)
    with pytest.raises(InvalidField, match="the variable HTTP_PROXY is not the address of a proxy"):
        AsyncClient("http://judge.invalid")


def test_a_missing_package_for_socks_is_named(environment):
    """With the command that installs it."""
    environment("ALL_PROXY", "socks5h://127.0.0.1:9")
    with pytest.raises(InvalidField, match=r"ALL_PROXY names a SOCKS proxy.*'httpx\[socks\]'"):
        AsyncClient("http://judge.invalid")


def test_a_transport_that_is_given_is_the_callers(environment):
    """It knows where to send."""
    environment("HTTP_PROXY", "ftp://proxy")
    AsyncClient("http://judge.invalid", transport=httpx.AsyncHTTPTransport())
