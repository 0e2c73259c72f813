"""Packages that `loadtest.gpu` needs where torch and transformers are installed and nothing can be.

    python -m loadtest.carried FOLDER

fetches their wheels, by the versions and hashes of the image's list, and unpacks them into FOLDER,
to be carried along and put on PYTHONPATH: for Python 3.12 on x86-64 Linux.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

LIST = Path(__file__).parents[1] / "deploy" / "requirements.txt"
PACKAGES = (
    *("annotated-doc", "annotated-types", "cffi", "click", "cryptography", "fastapi"),
    *("fastapi-offline", "httptools", "msgspec", "opentelemetry-api", "prometheus-client"),
    *("pycparser", "pydantic", "pydantic-core", "pydantic-settings", "python-dotenv", "sniffio"),
    *("starlette", "tenacity", "tomli-w", "typer", "typing-extensions", "typing-inspection"),
    "uvicorn",
)
# With torch and transformers, or beside them on any machine that trains.
THERE = (
    *("accelerate", "anyio", "certifi", "filelock", "fsspec", "h11", "hf-xet", "httpcore", "httpx"),
    *("huggingface-hub", "idna", "jinja2", "markdown-it-py", "markupsafe", "mdurl", "numpy"),
    *("packaging", "protobuf", "psutil", "pygments", "pyyaml", "regex", "requests", "rich"),
    *("safetensors", "sentencepiece", "shellingham", "sympy", "mpmath", "networkx", "setuptools"),
    *("tokenizers", "torch", "tqdm", "transformers", "triton", "urllib3", "uvloop"),
    *("charset-normalizer", "httpcore2", "httpx2", "truststore"),  # huggingface-hub, by its version
)
_PLATFORMS = tuple(
    f"manylinux_2_{minor}_x86_64" for minor in (39, 38, 36, 35, 34, 31, 28, 27, 24, 17, 12, 5)
)


def requirements(text: str) -> str:
    """Return those lines of a list of pinned hashes that name what is carried.

    Raises:
        ValueError: A package isn't in the list.
    """
    entries = re.findall(r"^(\S+?)==.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^\S+?==.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    by_name = dict(zip(entries, blocks, strict=True))
    if missing := set(PACKAGES) - by_name.keys():
        raise ValueError(f"{LIST.name} doesn't name {', '.join(sorted(missing))}")
    return "".join(by_name[name] for name in PACKAGES)


def fetch(folder: Path) -> None:
    """Fetch the wheels and unpack them into a folder."""
    with tempfile.TemporaryDirectory() as made:
        listed = Path(made) / "requirements.txt"
        listed.write_text(requirements(LIST.read_text()))
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--require-hashes", "--only-binary=:all:", "--python-version=3.12"]
        command += ["--implementation=cp", *(f"--platform={name}" for name in _PLATFORMS)]
        command += ["--platform=manylinux2014_x86_64", "--platform=any", "--dest", made]
        subprocess.run([*command, "--requirement", str(listed)], check=True)
        for wheel in Path(made).glob("*.whl"):
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(folder)


def main() -> None:
    """Fetch them."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.carried", description=__doc__)
    parser.add_argument("folder", type=Path)
    fetch(parser.parse_args().folder)


if __name__ == "__main__":
    main()
