"""`/docs` loads nothing from elsewhere, and paths with a slash at their end are those without."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from tests.http.texts import PAIR

if TYPE_CHECKING:
    from tests.http.processes import Server

ANYWHERE = re.compile(r"""(?:src|href|data-document)="([^"]*)\"""")


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_the_page_names_no_other_host(starter: Server, path: str) -> None:
    """All that it loads is answered by this server, and its policy lets in nothing else."""
    page = starter.http.get(path)
    named = [urljoin(f"{starter.url}{path}", one) for one in ANYWHERE.findall(page.text)]
    policy = page.text.partition('Content-Security-Policy" content="')[2].partition('"')[0]

    assert len(named) == 5
    for one in named:
        assert urlsplit(one).netloc == urlsplit(starter.url).netloc
        answer = httpx.get(one)
        assert answer.status_code == 200, one
        assert answer.content
    assert "//" not in page.text.replace("<!DOCTYPE", "")
    assert "default-src 'none'" in policy
    assert {word for word in policy.replace(";", "").split() if ":" in word} == {"data:"}


def test_the_scripts_are_what_they_say(starter: Server) -> None:
    """Browsers take nothing of another type; the page's own script asks no validator."""
    kinds = {
        "swagger-ui-bundle.js": "text/javascript",
        "swagger-ui.css": "text/css",
        "favicon.png": "image/png",
        "start.js": "text/javascript",
    }
    for name, kind in kinds.items():
        answer = starter.http.get(f"/docs/{name}")
        assert answer.headers["content-type"].partition(";")[0] == kind
    start = starter.http.get("/docs/start.js").text
    assert "SwaggerUIBundle(" in start
    assert "validatorUrl: null" in start
    assert "//" not in start
    assert "SwaggerUIBundle" in starter.http.get("/docs/swagger-ui-bundle.js").text


def test_no_route_redirects(starter: Server) -> None:
    """Every path of the document with a slash at its end answers as without it."""
    paths = starter.http.get("/openapi.json").json()["paths"]
    asked = [(method, path) for path, one in paths.items() for method in one if "{" not in path]

    for method, path in asked:
        plain, slashed = (
            httpx.request(method, f"{starter.url}{path.rstrip('/')}{end}") for end in ("", "/")
        )
        assert slashed.status_code == plain.status_code, path
        assert not slashed.is_redirect, path
    scored = [starter.http.post(path, json=PAIR).json() for path in ("/score", "/score/")]
    assert scored[0]["data"] == scored[1]["data"]
    assert starter.http.get("/models/starter/").json()["id"] == "starter"
    assert starter.metric("assay_requests_total", route="score") > 0


def test_a_slash_is_no_way_around_the_right_to_change(narrow: Server) -> None:
    """`/admin/load/` and `/metrics/` are `/admin/load` and `/metrics` to keys as well."""
    assert narrow.http.post("/admin/load/", json={"model": "x"}).status_code == 403
    assert httpx.get(f"{narrow.url}/metrics/").status_code == 401
    assert httpx.get(f"{narrow.url}/health/ready/").status_code == 200
