"""A resources server for NeMo Gym whose `/verify` asks Assay: `resources_servers/assay/app.py`."""

import os

from nemo_gym.base_resources_server import (
    BaseVerifyRequest,
    BaseVerifyResponse,
    SimpleResourcesServer,
)

from assay import AsyncClient

judge = AsyncClient(os.environ.get("ASSAY_URL", "http://localhost:8000"))


def text(content: str | list[dict]) -> str:
    """Return what a message says."""
    return content if isinstance(content, str) else "".join(one.get("text", "") for one in content)


def conversation(body: dict) -> list[dict]:
    """Return the turns of the prompt, and the final answer without its reasoning."""
    asked, output = body["responses_create_params"]["input"], body["response"]["output"]
    turns = [{"role": one["role"], "content": text(one["content"])} for one in asked]
    said = "".join(text(one["content"]) for one in output if one["type"] == "message")
    return [*turns, {"role": "assistant", "content": said}]


class AssayResourcesServer(SimpleResourcesServer):
    """One rollout, one raw reward."""

    async def verify(self, body: BaseVerifyRequest) -> BaseVerifyResponse:
        """Score the answer; a server that is away is asked again."""
        given = body.model_dump()
        entry = await judge.score({"messages": conversation(given)}, model="starter")
        return BaseVerifyResponse(**given, reward=entry.score)


if __name__ == "__main__":
    AssayResourcesServer.run_webserver()
