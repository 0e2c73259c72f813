"""The log as JSON: one object a line, whatever is said."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings

import pytest

from assay.telemetry import logging as logs
from tests.http.processes import run, until

SECRET = "glockenspiel"


@pytest.fixture
def said(capsys):
    """What is written to standard error, as objects; afterwards logging is as it was."""
    loggers = [
        logging.getLogger(name) for name in ("", "assay", "opentelemetry", "py.warnings", "uvicorn")
    ]
    before = [(one, one.handlers[:], one.level, one.propagate) for one in loggers]
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    logging.captureWarnings(capture=False)
    for one, handlers, level, propagate in before:
        one.handlers[:], one.propagate = handlers, propagate
        one.setLevel(level)


def test_a_line_is_an_object_with_what_happened(said):
    """When, how grave, whose, and the words."""
    logs.configure("info", "json")
    logging.getLogger("assay.some").warning("%d of %s", 2, "two\nlines")

    (line,) = said()

    assert line.keys() == {"time", "level", "logger", "message"}
    assert (line["level"], line["logger"]) == ("warning", "assay.some")
    assert line["message"] == "2 of two\nlines"


def test_an_exception_stays_on_its_line(said):
    """With its traceback as a string."""
    logs.configure("info", "json")
    try:
        {}["lost"]
    except KeyError:
        logging.getLogger("assay").exception("failed")

    (line,) = said()

    assert line["exception"].endswith("KeyError: 'lost'")


def test_what_libraries_warn_of_is_an_object_too(said):
    """Warnings of Python and the logs of others go the same way."""
    logs.configure("info", "json")
    logging.getLogger("library.error").warning("Invalid HTTP request received.")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", stacklevel=1)
        logging.captureWarnings(capture=False)

    assert [line["logger"] for line in said()] == ["library.error", "py.warnings"]


def test_below_the_level_nothing_is_said(said):
    """As in text."""
    logs.configure("warning", "json")
    logging.getLogger("assay").info("quiet")

    assert said() == []


def test_text_is_the_default(said, capsys):
    """A line for a person."""
    logs.configure("info")
    logging.getLogger("assay.some").info("said")

    assert capsys.readouterr().err.endswith("INFO    assay.some said\n")
    assert not logs.is_structured()


def test_a_server_logs_nothing_but_objects(observed):
    """From the first line of its start; a request has one with what identifies it."""
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    observed.http.post(
        "/score",
        json={"inputs": [{"prompt": SECRET, "response": SECRET}]},
        headers={
            "X-Request-Id": "logged",
            "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01",
        },
    )

    def found():
        entries = [json.loads(line) for line in observed.log.read_text().splitlines()]
        return [one for one in entries if one.get("request_id") == "logged"]

    (line,) = until("the request is logged", found)

    assert line.pop("ms") > 0
    assert "time" in line
    del line["time"], line["message"]
    assert line == {
        "level": "info",
        "logger": "assay.access",
        "request_id": "logged",
        "method": "POST",
        "route": "/score",
        "status": 200,
        "model": "one",
        "outcome": "ok",
        "peer": "127.0.0.1",
        "trace_id": trace_id,
    }
    assert SECRET not in observed.log.read_text()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            {"inputs": [{"text": "a"}], "attributes": {"b": 1}},
            {"model": "one", "outcome": "invalid_field"},
        ),
        ({"model": SECRET, "inputs": [{"text": "a"}]}, {"outcome": "unknown_model"}),
    ],
    ids=["a target that is known", "none"],
)
def test_a_refused_requests_line_has_the_errors_code(observed, body, told):
    """And the target's name where it is one."""
    request_id = f"refused-{told['outcome']}"
    observed.http.post("/score", json=body, headers={"X-Request-Id": request_id})

    def found():
        entries = [json.loads(line) for line in observed.log.read_text().splitlines()]
        return [one for one in entries if one.get("request_id") == request_id]

    (line,) = until("the request is logged", found)

    assert {name: line[name] for name in ("model", "outcome") if name in line} == told


def test_what_is_written_bare_is_logged_as_well():
    """By this process, by those that it starts, and by Python when it ends with an error."""
    program = """
import os, subprocess
from assay.telemetry import logging as logs, stderr
logs.configure("info", "json")
stderr.adopt()
os.write(2, b"said bare\\n")
subprocess.run(["sh", "-c", "echo said by another >&2"], check=True)
raise LookupError("the end")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    told = [json.loads(line) for line in done.stderr.splitlines()]

    assert done.returncode == 1
    assert {line["logger"] for line in told} == {"assay.stderr"}
    assert [line["message"] for line in told][:2] == ["said bare", "said by another"]
    assert told[-1]["message"] == "LookupError: the end"


def test_what_is_written_bare_stays_bare_where_lines_are_text():
    """Word for word, in order with the log."""
    program = """
import logging, os
from assay.telemetry import logging as logs, stderr
logs.configure("info")
stderr.adopt()
os.write(2, b"said bare\\n")
raise LookupError("the end")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    lines = done.stderr.splitlines()

    assert done.returncode == 1
    assert (lines[0], lines[-1]) == ("said bare", "LookupError: the end")


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_is_long_is_cut_in_the_middle(said, capsys, form):
    """Its begin and its end stay; an object stays one."""
    logs.configure("info", form)
    logging.getLogger("assay.some").warning("begin %s end", "a" * 100_000)

    text = capsys.readouterr().err

    assert len(text) < 20_000
    assert "begin aaa" in text
    assert "aaa end" in text
    assert form == "text" or json.loads(text)["logger"] == "assay.some"


def test_settings_that_are_wrong_are_told_in_an_object(tmp_path):
    """Before there are settings, the format that the environment names is taken."""
    done = run("serve", cwd=tmp_path, log_format="json", port="none")
    (line,) = [json.loads(one) for one in done.stderr.splitlines()]

    assert done.returncode == 3
    assert line["level"] == "error"
    assert "setting 'port'" in line["message"]


def test_a_start_that_fails_is_told_in_an_object(tmp_path):
    """The last line has the reason; the exit code is the same as ever."""
    done = run("serve", tmp_path / "nothing", cwd=tmp_path, log_format="json", device="cpu")

    assert done.returncode == 3
    assert json.loads(done.stderr.splitlines()[-1])["level"] == "error"
