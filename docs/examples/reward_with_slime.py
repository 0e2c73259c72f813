"""Rewards for slime: `--custom-rm-path reward_with_slime.custom_rm`, with `--group-rm` or not."""

import os

from assay.client.adapters import slime

URL = os.environ.get("ASSAY_URL", "http://localhost:8000")

custom_rm = slime.reward(URL, model="starter", verbatim=True)  # --apply-chat-template
