"""Ask for rewards as slime's `remote_rm` does. A replay: what it sends and reads, without slime."""

import asyncio
import json
import os
import sys

import aiohttp

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ASSAY_URL", "http://localhost:8000")
RM_URL = f"{URL}/reward"  # what --rm-url has
QUESTION = "Name a prime number."
RESPONSE = "Seven is a prime number."


async def remote_rm(session: aiohttp.ClientSession, url: str, prompt: object) -> object:
    """Send one sample; slime tries 10 times, with pauses that grow to 30 s."""
    body = {"prompt": prompt, "response": RESPONSE, "label": None}
    async with session.post(url, json=body) as answer:
        answer.raise_for_status()
        return await answer.json()


async def main() -> None:
    """A prompt as it is in the data: a string, or messages; and with `--reward-key quality`."""
    messages = [{"role": "user", "content": QUESTION}]
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=64), timeout=aiohttp.ClientTimeout(total=120)
    ) as session:
        string = await remote_rm(session, RM_URL, QUESTION)
        turns = await remote_rm(session, RM_URL, messages)
        keyed = await remote_rm(session, f"{RM_URL}?reward_key=quality", QUESTION)
    print(json.dumps({"string": string, "messages": turns, "keyed": keyed}))


asyncio.run(main())
