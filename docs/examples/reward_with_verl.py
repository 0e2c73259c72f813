"""Rewards for verl: `custom_reward_function.path` is this file."""

import os

from assay.client.adapters import verl

URL = os.environ.get("ASSAY_URL", "http://localhost:8000")

compute_score = verl.async_reward(URL, model="starter")  # one response, many under way
compute_scores = verl.batch_reward(URL, model="starter")  # for the reward manager `batch`
