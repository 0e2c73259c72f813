"""A reward for AReaL: `RLVRWorkflow(reward_fn="reward_with_areal.reward_fn", ...)`."""

import os

from assay.client.adapters import areal

URL = os.environ.get("ASSAY_URL", "http://localhost:8000")

reward_fn = areal.reward(URL, model="starter", deadline_s=14.0)
