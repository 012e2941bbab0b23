"""An audit in words."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from monitoring.audit.audits import DIFFERENT, SAME, Answered, Asked, Audit, Why
from utils.answers import number_text
from utils.model_store.card import Card

MOST_FEATURES = 4  # that are named
MOST_CHARACTERS = 60  # of a value

Line = tuple[str, str]  # the text, and a style of rich


def audit_lines(audit: Audit) -> Iterator[Line]:
    """Yield the lines about a request."""
    yield from ((note, "yellow") for note in audit.notes)
    for asked in audit.asked:
        place = f"{asked.topic}-{asked.partition} at offset {asked.offset}"
        yield f"asked     {when(asked.time)}, {place}", ""
        yield f"          {row_text(asked.data)}", ""
        if asked.problem:
            yield f"          invalid: {asked.problem}", "yellow"
    if audit.asked and not audit.answered:
        yield "answered  not yet", "yellow"
    for answer in audit.answered:
        yield from _answer_lines(answer, audit.asked)
    for reported in audit.outcomes:
        yield f"outcome   {shown(reported.outcome)}, {when(reported.time)}", ""
    if audit.answered and not audit.outcomes:
        yield "outcome   not known", ""


def _answer_lines(answer: Answered, asked: list[Asked]) -> Iterator[Line]:
    since = ""
    if answer.request is not None and answer.time >= 0:
        since = f", after {answer.time - asked[answer.request].time:,} ms"
    yield f"answered  {when(answer.time)}{since}: {fields_text(answer.reply)}", ""
    if answer.model:
        yield f"model     {model_text(answer.model)}; in {answer.where}", ""
        if answer.model.why:
            yield f"          {answer.model.decision}: {answer.model.why}", ""
    yield _result(answer)
    for note in answer.notes:
        yield f"          {note}", "yellow"
    if answer.why:
        yield f"why       {why_text(answer.why)}", ""


def _result(answer: Answered) -> Line:
    if "error" in answer.reply:
        refused = (
            "refused again, for the same reason"
            if answer.result == SAME
            else "NOT refused for this reason"
        )
        return f"again     {refused}", "green" if answer.result == SAME else "bold red"
    if answer.result == SAME:
        return "again     the same, bit for bit", "green"
    if answer.result == DIFFERENT:
        return f"again     NOT the same: {fields_text(answer.again)}", "bold red"
    return "again     not computed", "bold red"


def fields_text(fields: dict[str, Any]) -> str:
    """Return the fields of a reply as text."""
    return ", ".join(f"{name} {shown(value)}" for name, value in fields.items())


def model_text(card: Card) -> str:
    """Return which model it is, and what it was made from."""
    of = f"{card.rows:,} rows, {card.observations:,} of them observations, {card.trees} trees"
    return (
        f"{card.model_id}, made {card.created or 'at an unknown time'} from {of}, digest "
        + (card.digest[:12])
    )


def why_text(why: Why) -> str:
    """Return which features moved the prediction, and by how much."""
    strongest = [each for each in why.features if each[2]][:MOST_FEATURES]
    if not strongest:
        return "no feature moves it"
    name, value, amount = strongest[0]
    verb = "raised" if amount > 0 else "lowered"
    text = f"{name} {shown(value)} {verb} it most ({signed(amount)} in the {why.score})"
    for name, value, amount in strongest[1:]:
        text += f", {name} {shown(value)} {signed(amount)}"
    rest = sum(amount for _, _, amount in why.features) - sum(each[2] for each in strongest)
    if (others := len(why.features) - len(strongest)) > 0:
        text += f", {others} others together {signed(rest)}"
    return f"{text}; without any it would be {_base(why)}"


def _base(why: Why) -> str:
    if why.score.startswith("log-odds"):
        return f"{1 / (1 + math.exp(-why.base)):.3f}"
    return number_text(why.base)


def row_text(data: Any) -> str:
    """Return a request's data as text."""
    if not isinstance(data, dict):
        return shown(data)
    return ", ".join(f"{name} {shown(value)}" for name, value in data.items())[:2_000]


def shown(value: Any) -> str:
    """Return a value, cut at MOST_CHARACTERS characters."""
    text = "null" if value is None else str(value)
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "..."


def signed(number: float) -> str:
    """Return a number with its sign."""
    return ("" if number < 0 else "+") + number_text(number)


def when(time: int) -> str:
    """Return a time, in ms since 1970, as text; senders decide what it is."""
    try:
        then = datetime.fromtimestamp(time / 1000, UTC).replace(tzinfo=None)
        return then.isoformat(" ", "milliseconds") + " UTC"
    except (ValueError, OverflowError, OSError):
        return f"{time} ms since 1970"
