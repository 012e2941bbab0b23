"""One sentence about how the pipeline is doing, for page and terminal."""

import msgspec

from monitoring.snapshot import ModelState, Snapshot

PATIENCE = 10.0  # seconds that an answer may take, and that the monitor may be behind


class Headline(msgspec.Struct):
    """The sentence, and how bad it is.

    level : "good", "warning", "bad", or "waiting" while there is nothing to judge.
    """

    level: str
    text: str


def headline(snapshot: Snapshot) -> Headline:
    """Return the most important thing about this moment."""
    flow, behind = snapshot.flow, snapshot.following.behind or 0
    active = [alert for alert in snapshot.alerts if alert.end is None]
    if (away := snapshot.following.kafka_away_since) is not None:
        wait = duration(snapshot.time - away)
        return Headline("bad", f"Kafka has not answered for {wait}: the figures are from before.")
    if active:
        rest = len(active) - 2
        more = [f"{rest} more alert{'s' if rest > 1 else ''}."] if rest > 0 else []
        return Headline("bad", " ".join([_sentence(alert.text) for alert in active[:2]] + more))
    if behind > PATIENCE:
        return Headline("waiting", f"The monitor is still reading: {duration(behind)} behind.")
    if not flow.requests:
        return Headline("waiting", "No request yet: the figures begin with the first one.")
    if flow.unanswered and (flow.oldest_unanswered or 0) > PATIENCE:
        wait = duration(flow.oldest_unanswered)
        number = f"{flow.unanswered:,} request" + "s" * (flow.unanswered > 1)
        return Headline("bad", f"{number} without an answer, the oldest for {wait}.")
    if (model := champion(snapshot)) and model.is_useless:
        text = "No request waits for long, but answers are worse than the mean outcome"
        return Headline("bad", text + _quality(snapshot) + ".")
    if drifted := [each.name for each in snapshot.drift if each.drifted]:
        names = ", ".join(drifted[:3]) + (f" and {len(drifted) - 3} more" if drifted[3:] else "")
        return Headline("warning", f"No request waits for long, but the data drift: {names}.")
    return Headline("good", "All right: no request waits for long" + _quality(snapshot) + ".")


def _quality(snapshot: Snapshot) -> str:
    model = champion(snapshot)
    if not model:
        return ""
    loss = next(iter(model.figures.values()), None)
    shown = "" if loss is None else f", {snapshot.loss} {figure(loss)}"
    return f", model {model.model_id}{shown}"


def champion(snapshot: Snapshot) -> ModelState | None:
    """Return the model that answers now, if it is known."""
    return next((each for each in snapshot.models if each.model_id == snapshot.champion), None)


def figure(value: float) -> str:
    """Return a figure with as many digits as tell something: 0.2734, 53.4, 3,021."""
    return (
        f"{value:.4f}"
        if abs(value) < 10
        else f"{value:,.1f}"
        if abs(value) < 1e3
        else f"{value:,.0f}"
    )


def duration(seconds: float) -> str:
    """Return a duration in a sensible unit: 350 ms, 4.2 s, 75 s, 12 min, 3 h, 2 days."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for limit, size, unit in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def _sentence(text: str) -> str:
    text = text.strip() or "an alert without a text"
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?" else text + "."
