"""Train two steps of GRPO on rewards of a server, by TRL's own trainer."""

import argparse
import json
import os
from pathlib import Path

import torch
from datasets import Dataset
from pyarrow import parquet
from trl import GRPOConfig, GRPOTrainer

from assay.client.adapters import trl

parser = argparse.ArgumentParser()
parser.add_argument("--url", default=os.environ.get("ASSAY_URL", "http://localhost:8000"))
parser.add_argument("--policy", default="Qwen/Qwen2.5-0.5B-Instruct")
parser.add_argument("--output", default="grpo")
parser.add_argument("--asynchronous", action="store_true")
options = parser.parse_args()

asked = trl.async_reward if options.asynchronous else trl.reward
trainer = GRPOTrainer(
    model=options.policy,
    reward_funcs=asked(options.url, model="starter", name="assay"),
    train_dataset=Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": "Name a prime number."}]},
            {"prompt": [{"role": "user", "content": "How do I keep basil alive?"}]},
        ]
    ),
    args=GRPOConfig(
        output_dir=options.output,
        max_steps=2,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=16,
        logging_steps=1,
        log_completions=True,
        report_to="none",
        save_strategy="no",
        bf16=torch.cuda.is_available(),
    ),
)
trainer.train()

tables = sorted(Path(options.output, "completions").glob("*.parquet"))
completions = [row for table in tables for row in parquet.read_table(table).to_pylist()]
means = [one["rewards/assay/mean"] for one in trainer.state.log_history if "reward" in one]
print(json.dumps({"means": means, "completions": completions}))
