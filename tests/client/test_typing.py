import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_callers_program_is_typed():
    """Every answer has its type, and a misspelt option is an error, under `mypy --strict`."""
    command = [sys.executable, "-m", "mypy", "--strict", "tests/client/caller.py"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
