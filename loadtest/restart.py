"""How long a device process that died is missed: `python -m loadtest.restart [TIMES]`.

Of another state of the code the same command tells the same, run in its tree.
"""

from __future__ import annotations

import sys
import time

import httpx
import psutil

from loadtest import census, server

_ITEM = {"inputs": [{"prompt": "How far is the moon?", "response": "384,400 km."}]}


def main(times: int = 5) -> None:
    """Kill the starter's worker so many times, and print when the next answer came."""
    with server.assay("starter", "float32", 1, compile="off") as assay, httpx.Client() as http:
        processes = [psutil.Process(assay.pid), *psutil.Process(assay.pid).children(recursive=True)]
        held = sum(process.memory_full_info().pss for process in processes)
        print(f"{len(processes)} processes hold {held / 1e6:,.0f} MB, shared pages counted once")
        for _ in range(times):
            (worker,) = census.workers(assay.pid)
            worker.kill()
            begin = time.perf_counter()
            psutil.wait_procs([worker])
            answer = http.post(f"{assay.url}/score", json=_ITEM, timeout=120)
            answer.raise_for_status()
            print(f"answered {time.perf_counter() - begin:.2f} s after the worker was killed")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
