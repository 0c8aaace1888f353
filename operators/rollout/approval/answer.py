"""What a person, or the time-out in place of one, has said. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

GO_ON, ROLL_BACK = "Go on", "Roll back"


class Answer(NamedTuple):
    """A decision.

    :param by: the user, or `timeout`
    """

    answer: Literal["go_on", "roll_back"]
    by: str


def answer_of(event: Mapping[str, Any]) -> Answer | None:
    """Read Airflow's event of an answered form; None: it is of something else, or of a form that failed."""
    if not event.get("chosen_options"):
        return None
    user = event.get("responded_by_user")
    return Answer("go_on" if event["chosen_options"][0] == GO_ON else "roll_back", user["name"] if user else "timeout")
