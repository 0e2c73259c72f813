"""A process reward model for search-and-learn: in place of `load_prm(config)`."""

import os

from assay.client.adapters import search_and_learn

URL = os.environ.get("ASSAY_URL", "http://localhost:8000")

prm = search_and_learn.process_reward(URL, model="Qwen/Qwen2.5-Math-PRM-7B", separator="\n\n")
