"""The library of `native.cpp`: shipped with the installation, or compiled on first use and kept.

`python -m assay.engine.attention.library [FOLDER]` compiles it for every processor that it knows,
for an image that has no compiler: into FOLDER, or where the installation looks for it. What a
library is called says what it was made of and for: another torch or another source wants another.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import platform
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from assay import ownership

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("assay.attention")
_SOURCE = Path(__file__).with_name("native.cpp")
_FLAGS = (
    # No contraction: a fused multiply-add rounds once, torch's own kernels round twice.
    *("-O3", "-std=c++20", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared"),
    "-fopenmp",  # without it, torch's parallel_for runs on one thread
)
# By torch's own name for what a processor can; those it compiles its own kernels with. Not
# -march=native: a library is kept in a home that several machines may share, or shipped.
_PROCESSORS = {
    "AVX2": ("-march=x86-64-v3",),
    "AVX512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
}


def is_made() -> bool:
    """Return whether there is a library for this processor that needn't be compiled."""
    return any(file.exists() for file in _files(torch.backends.cpu.get_cpu_capability()))


def load() -> bool:
    """Load the library that is shipped, or kept, or compiled now; return whether that worked."""
    processor = torch.backends.cpu.get_cpu_capability()
    if processor not in _PROCESSORS:
        return False
    shipped, kept = _files(processor)
    if shipped.exists() and _loaded(shipped):
        return True
    try:
        with _alone_in(kept.parent):
            if not kept.exists():
                _compile(processor, kept)
            return _loaded(kept)
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning(
            "the CPU attention kernel can't be compiled (%s); using torch's products, which are "
            "slower",
            str(getattr(error, "stderr", None) or error).splitlines()[0],
        )
        return False


def _loaded(file: Path) -> bool:
    """Load a library, unless somebody else may have made it or changed it since."""
    try:
        for path in (file.parent, file):
            if why := ownership.doubt(path):
                logger.warning("%s isn't loaded: %s %s", file, path, why)
                return False
        torch.ops.load_library(str(file))  # type: ignore[no-untyped-call]
    except OSError as error:
        logger.warning("%s can't be loaded (%s)", file, str(error).splitlines()[0])
        return False
    return True


def _name(processor: str) -> str:
    facts = (torch.__version__, *_FLAGS, *_PROCESSORS.get(processor, ()))
    made_of = hashlib.sha256("\n".join(facts).encode() + b"\n" + _SOURCE.read_bytes())
    return f"forest_attention-{processor.lower()}-{made_of.hexdigest()}.so"


def _files(processor: str) -> tuple[Path, Path]:
    """Return where a library is shipped, and where it is kept."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache/assay/extensions"
    name = _name(processor)
    return _shipped_in() / name, Path(root) / "assay_forest_attention" / name


def _shipped_in() -> Path:
    return Path(sys.prefix) / "share" / "assay" / "kernels"


def _compile(processor: str, file: Path) -> None:
    """Compile the library; it is never seen half written.

    Raises:
        SubprocessError: The compiler fails; `stderr` is what it says.
        OSError: There is none.
    """
    torch_folder = Path(torch.__file__).parent
    draft = file.with_suffix(f".{os.getpid()}")
    command = [
        *(os.environ.get("CXX", "c++"), *_FLAGS, *_PROCESSORS[processor]),
        *(f"-DCPU_CAPABILITY={processor}", f"-DCPU_CAPABILITY_{processor}"),
        *("-isystem", str(torch_folder / "include"), str(_SOURCE), "-o", str(draft)),
        *(f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch"),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
        draft.chmod(0o755)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time compile into a folder; the kernel takes the lock back.

    Raises:
        OSError: It can't be written, or others can.
    """
    ownership.make(folder)
    if why := ownership.doubt(folder):
        raise PermissionError(f"{folder} {why}")
    with (folder / "building").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Compile for every processor of this machine's kind; there are none but x86-64's."""
    folder = Path(sys.argv[1]) if sys.argv[1:] else _shipped_in()
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    for processor in _PROCESSORS if platform.machine() in {"x86_64", "AMD64"} else ():
        _compile(processor, folder / _name(processor))


if __name__ == "__main__":
    main()
