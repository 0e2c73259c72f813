"""Reward models for its_hub's algorithms: `BestOfN(orm)`, `BeamSearch(sg, prm, beam_width)`."""

import os

from assay.client.adapters import its_hub

URL = os.environ.get("ASSAY_URL", "http://localhost:8000")

orm = its_hub.reward(URL, model="starter")
prm = its_hub.process_reward(URL, model="Qwen/Qwen2.5-Math-PRM-7B", aggregate="prod")
