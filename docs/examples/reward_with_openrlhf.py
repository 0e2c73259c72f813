"""A reward function for OpenRLHF: `--reward.remote_url /path/to/reward_with_openrlhf.py`."""

import os

from assay.client.adapters import openrlhf

URL = os.environ.get("ASSAY_URL", "http://localhost:8000")

reward_func = openrlhf.reward(URL, model="starter", clip=(-10.0, 10.0), deadline_s=600)
