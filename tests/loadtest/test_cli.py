"""The command line: `run` by default, and mistakes told before anything is started."""

import json

import pytest
from typer.testing import CliRunner

from loadtest.cli import app
from tests.loadtest.test_drive import Tiny, running

runner = CliRunner()


def test_options_without_a_command_are_those_of_run(tmp_path):
    """`--url … --contract … --workload …` measures a server that runs already."""
    file = tmp_path / "run.json"
    with running(Tiny()) as tiny:
        arguments = ["--url", tiny.url, "--contract", "plain", "--workload", "short"]
        arguments += ["--scale", "0.01", "--repetitions", "1", "--json", str(file)]
        result = runner.invoke(app, arguments)

    assert result.exit_code == 0, result.output
    (reading,) = json.loads(file.read_text())["workloads"]["short"]["rounds"][0]["readings"]
    assert reading["items"] == 10
    assert reading["errors"] == {}


def test_a_sweep_draws_both_panels(tmp_path):
    """A PNG and a JSON file with a point a setting."""
    png, file = tmp_path / "sweep.png", tmp_path / "sweep.json"
    with running(Tiny()) as tiny:
        arguments = ["sweep", "--server", f"plain={tiny.url}", "--scale", "0.02"]
        arguments += ["--png", str(png), "--json", str(file)]
        result = runner.invoke(app, arguments)

    assert result.exit_code == 0, result.output
    assert png.read_bytes().startswith(b"\x89PNG")
    (curve,) = json.loads(file.read_text())["curves"]
    assert [point["concurrency"] for point in curve["throughput"]] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert len(curve["latency"]) == 7


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run"], "give either --url or --server"),
        (["--url", "http://x", "--workload", "gruops"], "known are groups"),
        (["roofline", "--server", "assay=http://x"], "--checkpoint is needed"),
    ],
)
def test_mistakes_are_told(arguments, told):
    """What is wrong and what is known, with exit code 2."""
    result = runner.invoke(app, arguments)

    assert result.exit_code == 2
    assert told in " ".join(result.output.split())
