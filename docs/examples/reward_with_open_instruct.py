"""A verifier for open-instruct: import this module before training starts."""

import os

from assay.client.adapters import open_instruct

URL = os.environ.get("ASSAY_URL", "http://localhost:8000")

Helpful = open_instruct.reward(URL, name="helpful", model="starter", activation="sigmoid")
