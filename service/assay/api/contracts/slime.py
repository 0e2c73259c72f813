"""slime's `--rm-type remote_rm`: one sample, one bare number (slime/rollout/rm_hub).

With `?reward_key=NAME` the answer is an object with that key, for `--reward-key NAME`. With
`?verbatim=true` a prompt that is a string is a templated text (`--apply-chat-template`), and is
scored as one text with its response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.api import problems
from assay.api.contracts.contract import Ask, Contract, only
from assay.api.contracts.turns import Prompt, Templated, Turn, check_untemplated, inputs_of
from assay.errors import InvalidField
from assay.items import Conversation, Text

if TYPE_CHECKING:
    from assay.items import Source
    from assay.scoring.driver import Handler


class Sample(Templated):
    """`label` is sent along, and not needed."""

    prompt: Prompt
    response: str
    model: str | None = None


def _reward(ask: Ask, body: Sample) -> Handler[float | dict[str, float]]:
    source = _source(body, is_templated=_is_templated(ask))
    _, _, judged = yield from ask.read(
        [source], only("response"), model=body.model, turns=only("prompt")
    )
    reward = judged[0].reward
    key = ask.query.get("reward_key")
    return reward if key is None else {key: reward}


def _is_templated(ask: Ask) -> bool:
    """Return whether the prompt went through a template.

    Raises:
        InvalidField: The URL says neither yes nor no.
    """
    said = ask.query.get("verbatim", "false")
    if said not in ("true", "false"):
        raise InvalidField("send 'verbatim=true' or 'verbatim=false'", param="verbatim")
    return said == "true"


def _source(body: Sample, *, is_templated: bool) -> Source:
    if is_templated and isinstance(body.prompt, str):
        check_untemplated(body, "prompt")
        return Text(body.prompt + body.response)
    prompt = body.prompt
    prompt_turns = [Turn(role="user", content=prompt)] if isinstance(prompt, str) else prompt
    turns = [*prompt_turns, Turn(role="assistant", content=body.response)]
    return Conversation(tuple(turn.message() for turn in turns), inputs_of(body))


CONTRACTS = (
    Contract(
        "slime.reward",
        ("/reward",),
        Sample,
        _reward,
        problems.native,
        query=frozenset({"reward_key", "verbatim"}),
    ),
)
