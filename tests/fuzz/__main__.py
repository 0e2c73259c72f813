"""Send many generated requests to a server of tiny models: `python -m tests.fuzz --cases 20000`."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

from tests.contract.served import every_kind
from tests.fuzz import cases

_SHOWN = 20


def main() -> None:
    """Print what the answers were; exit with 1 where one was none of those that are documented."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "models"
        root.mkdir()
        with every_kind(root) as server:
            begin = time.monotonic()
            tally = cases.tried(server, arguments.cases, arguments.seed)
            passed_s = time.monotonic() - begin
    print(f"{tally.cases} cases in {passed_s:.0f} s; by status: {tally.by_status()}")
    print(f"{len(tally.failures)} failures")
    print(*tally.failures[:_SHOWN], sep="\n\n")
    sys.exit(bool(tally.failures))


if __name__ == "__main__":
    main()
