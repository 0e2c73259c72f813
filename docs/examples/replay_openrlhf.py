"""Ask for rewards as OpenRLHF does. A replay: what its versions send and read, without OpenRLHF."""

import asyncio
import json
import os
import sys

import aiohttp

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ASSAY_URL", "http://localhost:8000")
REMOTE_URL = f"{URL}/get_reward"  # what --reward.remote_url has
PROMPT = "<|im_start|>user\nName a prime number.<|im_end|>\n<|im_start|>assistant\n"
RESPONSES = ["Eight.<|im_end|>", "Seven is a prime number.<|im_end|>", "Seven is a pri"]
QUERIES = [PROMPT + response for response in RESPONSES]
PADDED = ["<|pad|>" * 3 + query + "<|pad|>" * 2 for query in QUERIES]  # before v0.8.4


async def post(queries: list[str]) -> dict:
    """Send one request: 180 s for all of it, 5 tries a second apart, a new session each."""
    body = {"query": queries, "prompts": [PROMPT] * len(queries), "labels": [""] * len(queries)}
    for _ in range(5):
        timeout = aiohttp.ClientTimeout(total=180)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            try:
                async with session.post(REMOTE_URL, json=body) as response:
                    response.raise_for_status()
                    return await response.json()
            except aiohttp.ClientError as error:
                print(error, file=sys.stderr)
        await asyncio.sleep(1)
    raise RuntimeError("no answer in 5 tries")


async def main() -> None:
    """A sample a request (v0.9.1 on); a whole batch (before), padded (before v0.8.4)."""
    singles = await asyncio.gather(*(post([query]) for query in QUERIES))
    batch, padded = await post(QUERIES), await post(PADDED)
    nothing = await post([])  # v0.11.0 with two URLs and one sample
    print(json.dumps({"singles": singles, "batch": batch, "padded": padded, "nothing": nothing}))


asyncio.run(main())
