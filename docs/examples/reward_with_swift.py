"""A reward for ms-swift: `--external_plugins reward_with_swift.py --reward_funcs assay`."""

import os

from swift.rewards import orms

from assay.client.adapters import swift

URL = os.environ.get("ASSAY_URL", "http://localhost:8000")

orms["assay"] = swift.async_reward(URL, model="starter", name="assay")
