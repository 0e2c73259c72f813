"""Rewards for verifiers: of a rollout, of a group, of a trace."""

import os

from assay.client.adapters import verifiers

URL = os.environ.get("ASSAY_URL", "http://localhost:8000")

helpful = verifiers.reward(URL, model="starter", name="helpful")  # Rubric(funcs=[helpful])
helpful_group = verifiers.group_reward(URL, model="starter", name="helpful")  # the same, at once
helpful_trace = verifiers.trace_reward(URL, model="starter", name="helpful")  # a task's reward
