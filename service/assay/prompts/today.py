"""The moment that a chat template takes for now: one for all items, whatever the clock says.

transformers gives a template `strftime_now`, which asks the clock: the same item would have another
score tomorrow, or a second later, under one revision.
"""

from __future__ import annotations

from datetime import datetime, time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import date

_CLOCK = "strftime_now"


def moment(day: date | None) -> datetime:
    """Return the beginning of a day, or now, in local time as transformers has it."""
    return datetime.now() if day is None else datetime.combine(day, time())  # noqa: DTZ005


def hold(source: str, now: datetime) -> None:
    """Let a template that asks for the time be told this one, when it is rendered next.

    A variable of that name won't do: transformers hands over data only. The compiled template is
    its own, one for all models with the same text.
    """
    if _CLOCK not in source:
        return
    from transformers.utils.chat_template_utils import _compile_jinja_template  # noqa: PLC0415

    def strftime_now(form: str) -> str:
        return now.strftime(form)

    _compile_jinja_template(source).globals[_CLOCK] = strftime_now
