"""What loading a checkpoint takes of memory, in a process of its own."""

import subprocess
import sys

SCRIPT = """
import re, sys, threading, torch, transformers
from pathlib import Path
from assay.cards.card import Card
from assay.engine import checkpoint, model_runner
import transformers.models.qwen3.modeling_qwen3
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
peak, done = anonymous(), False
before = peak
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
thread = threading.Thread(target=watch)
thread.start()
model, _ = checkpoint.load(
    Path(sys.argv[1]), Card(), device=torch.device("cpu"), dtype=torch.float32
)
done = True
thread.join()
print(peak - before)
"""


def growth(folder):
    """Return by how many bytes a process grows, at most, that loads a Qwen3 in float32."""
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, check=True
    )
    return int(result.stdout.split()[-1])
