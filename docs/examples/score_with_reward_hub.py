"""Score steps with reward_hub's client of a served PRM, and any conversation by its HTTPClient."""

import json
import os
import sys
from urllib.parse import urlsplit

from reward_hub import AutoRM
from reward_hub.openai.vllm_client import HTTPClient

from assay.client.adapters import reward_hub

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ASSAY_URL", "http://localhost:8000")
PORT = urlsplit(URL).port
CONVERSATION = [
    {"role": "user", "content": "What is 6 * 7?"},
    {"role": "assistant", "content": "6 * 7 is 6 + 6 + ... + 6.\n\nThat is 42."},
]

judge = AutoRM.load("Qwen/Qwen2.5-Math-PRM-7B", load_method="openai", port=PORT)
(steps,) = judge.score([CONVERSATION], return_full_prm_result=True)
(lowest,) = judge.score([CONVERSATION], aggregation_method="min")

client = HTTPClient(host="localhost", port=PORT, model_name="starter")
(pooled,) = client.post_reward_requests([CONVERSATION])

anywhere = reward_hub.process_reward(URL, model="Qwen/Qwen2.5-Math-PRM-7B")
(same,) = anywhere.score([CONVERSATION], return_full_prm_result=True)

print(
    json.dumps(
        {
            "steps": steps.step_scores,
            "min": lowest,
            "pooled": pooled["data"][0]["data"],
            "adapter": same.step_scores,
        }
    )
)
