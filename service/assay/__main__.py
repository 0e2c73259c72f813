"""`python -m assay` and the `assay` command, with a clear word when the extra is missing.

No torch in this process: only device processes compute, and to import it takes seconds.
"""

from __future__ import annotations

import errno
import io
import os
import sys

from assay import listening

_INTERRUPTED = 130
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # what is redirected to a file


def main() -> None:
    """Run the command line; it needs the `serve` extra."""
    try:
        try:
            _run()
        finally:
            if sys.stdout is not None:  # as where it was closed before
                sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except OSError as error:
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
        sys.exit(f"assay: what is printed can't be written: {error.strerror}")


def _run() -> None:
    listening.early(sys.argv[1:], os.environ)
    # transformers does without; it would advise to install it.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        from assay.cli import app  # noqa: PLC0415  the bare install has no typer
    except ModuleNotFoundError as error:
        sys.exit(
            f"assay: the command line needs {error.name!r}; install it with "
            "pip install 'assay-rm[serve]'"
        )
    # A name may have letters that the terminal's encoding lacks; they are escaped, not fatal.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()


if __name__ == "__main__":
    main()
