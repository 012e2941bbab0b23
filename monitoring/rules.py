"""The rules of alerts: a TOML file of a few lines, and whether they hold at a moment."""

import re
import shutil
import tomllib
from collections import deque
from collections.abc import Iterator
from math import inf, isfinite
from pathlib import Path
from typing import Annotated

import msgspec

from monitoring.snapshot import Drift, Snapshot
from utils.datasets import dataset
from utils.settings import settings

LEAST_ROWS = 200  # observations of the champion, for loss_above and useless
UNEXPECTED_FOR = 60.0  # seconds
DRIFT = "drift of "  # begins the names of these rules
LEAST_GROWTH = 10  # requests, for lag_growing_for

_EXPECTED = {"bool": "true or false", "str": "a text", "array": "a list of texts"}
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Rules(msgspec.Struct, forbid_unknown_fields=True):
    """What the file contains; a rule that is None does not apply."""

    drift: bool = False
    useless: bool = False
    loss_above: float | None = None
    unanswered_for: Seconds | None = None
    kafka_away_for: Seconds | None = None
    unexpected_replies: bool = False
    lag_growing_for: Seconds | None = None
    no_training_for: Seconds | None = None
    webhook: str = ""
    command: list[str] = []

    def __post_init__(self) -> None:
        if self.webhook and not self.webhook.startswith(("http://", "https://")):
            raise ValueError("webhook: expected an address that begins with http:// or https://")
        if self.command and not shutil.which(self.command[0]):
            raise ValueError(f"command: there is no program {self.command[0]}")
        if self.loss_above is not None and not isfinite(self.loss_above):
            raise ValueError("loss_above: expected a number")


def load_rules(path: str) -> Rules:
    """Read the rules; SystemExit with one sentence that names the field if the file is wrong."""
    try:
        return msgspec.convert(tomllib.loads(Path(path).read_text()), Rules)
    except (OSError, ValueError, TypeError) as error:
        raise SystemExit(f"ALERT_RULES: {path}: {_in_words(str(error))}") from None


def _in_words(error: str) -> str:
    """Rewrite msgspec's "Expected `X`, got `Y` - at `$.drift`" as "drift: expected ..."."""
    text, _, field = error.partition(" - at `$.")
    kind = re.search(r"Expected `(\w+)", text)
    if not (field and kind):
        return text
    expected = _EXPECTED.get(kind[1], "a number") + (" above 0" if "> 0" in text else "")
    return f"{field.rstrip('`')}: expected {expected}"


class Conditions:
    """Which rules hold: what find() returns is about one snapshot and those before it."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._unanswered: deque[tuple[float, int]] = deque()  # (time, how many), of each snapshot
        self._unexpected: tuple[int, float] | None = None  # how many, and when the last one came

    def find(self, snapshot: Snapshot) -> dict[str, str]:
        """Return {rule: what is wrong, in words}; a drift is a rule for each column."""
        return dict(
            [
                *self._drift(snapshot.drift),
                *self._loss(snapshot),
                *self._unanswered_for(snapshot),
                *self._kafka_away(snapshot),
                *self._unexpected_replies(snapshot),
                *self._lag_growing(snapshot),
                *self._no_training(snapshot),
            ]
        )

    def _drift(self, found: list[Drift]) -> Iterator[tuple[str, str]]:
        for each in found if self._rules.drift else ():
            if each.drifted:
                what = {"loss": "newer losses are higher by", "score": "scores: PSI"}
                text = f"{what.get(each.name, each.name + ': PSI')} {each.value:.3g}"
                by_chance = f"at most {each.threshold:.3g} by chance"
                yield f"{DRIFT}{each.name}", f"{text} over {each.rows:,} rows, {by_chance}"

    def _loss(self, snapshot: Snapshot) -> Iterator[tuple[str, str]]:
        shown = dataset.target.shown
        for model in snapshot.models:
            if model.role != "champion" or model.window < LEAST_ROWS:
                continue
            loss = next(iter(model.figures.values()), 0.0)
            text = f"the {snapshot.loss} of model {model.model_id} is {shown(loss)}"
            text += f" over {model.window:,} observations, "
            limit = self._rules.loss_above
            if limit is not None and loss > limit:
                yield "loss_above", text + f"above {limit:g}"
            if self._rules.useless and model.is_useless:
                mean = shown(model.loss_of_mean)
                yield "useless", text + f"that of always predicting the mean is {mean}"

    def _unanswered_for(self, snapshot: Snapshot) -> Iterator[tuple[str, str]]:
        limit, oldest = self._rules.unanswered_for, snapshot.flow.oldest_unanswered
        if limit is not None and oldest is not None and oldest > limit:
            count = snapshot.flow.unanswered
            text = f"unanswered requests: {count:,}, the oldest for {oldest:,.0f} s"
            yield "unanswered_for", text

    def _kafka_away(self, snapshot: Snapshot) -> Iterator[tuple[str, str]]:
        limit, since = self._rules.kafka_away_for, snapshot.following.kafka_away_since
        if limit is not None and since is not None and snapshot.time - since > limit:
            yield "kafka_away_for", f"Kafka has not answered for {snapshot.time - since:,.0f} s"

    def _unexpected_replies(self, snapshot: Snapshot) -> Iterator[tuple[str, str]]:
        """Yield the rule for a minute after a reply that is to no waiting request."""
        count, now = snapshot.flow.unexpected_replies, snapshot.time
        if self._unexpected is None or count < self._unexpected[0] or now < self._unexpected[1]:
            self._unexpected = count, -inf
        elif count > self._unexpected[0]:
            self._unexpected = count, now
        if self._rules.unexpected_replies and now - self._unexpected[1] < UNEXPECTED_FOR:
            text = f"replies to no waiting request, forged perhaps: {count:,} so far"
            yield "unexpected_replies", text

    def _lag_growing(self, snapshot: Snapshot) -> Iterator[tuple[str, str]]:
        """Yield the rule if fewest waited at all times of the older half, and the increase is real.

        The halves are those of the last `lag_growing_for` seconds.
        """
        if (span := self._rules.lag_growing_for) is None:
            return
        seen, now = self._unanswered, snapshot.time
        if seen and seen[-1][0] > now:  # the clock was set back
            seen.clear()
        seen.append((now, snapshot.flow.unanswered))
        while len(seen) > 2 and seen[1][0] <= now - span:
            seen.popleft()
        if now - seen[0][0] < span:
            return
        older = [count for time, count in seen if time < now - span / 2]
        newer = [count for time, count in seen if time >= now - span / 2]
        if older and min(newer) >= max(older) + LEAST_GROWTH:
            text = f"unanswered requests: {older[0]:,} {span:g} s ago, {newer[-1]:,} now"
            yield "lag_growing_for", text

    def _no_training(self, snapshot: Snapshot) -> Iterator[tuple[str, str]]:
        limit, last = self._rules.no_training_for, snapshot.training.last_end
        since = snapshot.started if last is None else last
        if limit is not None and since is not None and snapshot.time - since > limit:
            hours = (snapshot.time - since) / 3600
            yield "no_training_for", f"no training has ended for {hours:,.1f} hours"


def asks_for_training(rule: str) -> bool:
    """Return whether an alert of this rule is a reason to retrain, if RETRAIN_ON_DRIFT=1."""
    return settings.retrain_on_drift and rule.startswith(DRIFT)
