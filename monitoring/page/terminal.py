"""The same as the page, in a terminal: `python monitor.py --terminal`.

    with terminal_view() as show:
        show(snapshot, histories)    # once a second

Where the output is not a terminal, it says one line every 10 seconds.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from monitoring.page.headline import duration, figure, headline
from monitoring.snapshot import Drift, History, ModelState, Snapshot
from utils.console import printable, say

SAY_EVERY = 10.0  # seconds, where the output is not a terminal
STYLES = {"good": "bold green", "warning": "bold yellow", "bad": "bold red", "waiting": "bold"}
SIGNS = {"good": "✓", "warning": "!", "bad": "✕", "waiting": "…"}
# The kinds of marks: sign, and what the text does not say.
MARKS = {
    "answers": ("▲", ""),
    "promoted": ("★", "promoted"),
    "rejected": ("×", "rejected"),
    "failed": ("✕", "training failed"),
    "drift": ("◆", ""),
    "alert": ("!", ""),
}
BLOCKS = "▁▂▃▄▅▆▇█"
FIXED = 22  # lines beside models, drift and events
Histories = Mapping[str, History]


@contextmanager
def terminal_view() -> Iterator[Callable[[Snapshot, Histories], None]]:
    """Yield a function that shows a snapshot and its histories, until the block ends."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_interactive:
        yield _say_now_and_then()
        return
    size = console.size

    def show(snapshot: Snapshot, histories: Histories) -> None:
        nonlocal size
        if console.size != size:  # its old lines are wrapped now
            size = console.size
            console.clear()
        live.update(view(snapshot, histories, *size), refresh=True)

    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        console.show_cursor(True)  # a second Ctrl-C exits at once and would leave it hidden
        yield show


def _say_now_and_then() -> Callable[[Snapshot, Histories], None]:
    said = float("-inf")

    def show(snapshot: Snapshot, _histories: Histories) -> None:
        nonlocal said
        if time.monotonic() - said >= SAY_EVERY:
            said = time.monotonic()
            say(status(snapshot))

    return show


def status(snapshot: Snapshot) -> str:
    """Return the state in one line."""
    flow, latency = snapshot.flow, snapshot.latency
    p99 = "" if latency.p99 is None else f", p99 {duration(latency.p99)}"
    numbers = f"{flow.requests:,} requests, {flow.requests_per_second:.1f}/s"
    return f"{headline(snapshot).text} {numbers}, {flow.unanswered:,} unanswered{p99}"


def view(snapshot: Snapshot, histories: Histories, width: int, height: int) -> Group:
    """Return all of it for a terminal of this size, the most important things first."""
    rows = max((height - FIXED) // 2, 2)
    parts = [_headline(snapshot), _tiles(snapshot, width), _flows(snapshot)]
    parts += [_curves(snapshot, histories.get("hour"), width), _models(snapshot, rows, width)]
    if snapshot.drift:
        parts.append(_drift(snapshot.drift, rows // 2 + 1, width))
    parts.append(_lines(snapshot, rows // 2 + 3))
    return Group(*parts)


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style, no_wrap=True, overflow="ellipsis")


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def _headline(snapshot: Snapshot) -> Text:
    found = headline(snapshot)
    return Text(f"{SIGNS[found.level]} {printable(found.text)}\n", STYLES[found.level])


def _tiles(snapshot: Snapshot, width: int) -> Table:
    flow, latency, training = snapshot.flow, snapshot.latency, snapshot.training
    oldest = flow.oldest_unanswered if flow.unanswered else None
    delay = snapshot.outcome_delay
    tiles = [
        ("requests", f"{flow.requests:,}", f"{flow.requests_per_second:.1f} per second"),
        ("unanswered", f"{flow.unanswered:,}", oldest and f"oldest {duration(oldest)}"),
        ("latency", _shown(latency.p50, duration), f"p99 {_shown(latency.p99, duration)}"),
        ("outcomes", f"{flow.outcomes:,}", f"half after {_shown(delay.p50, duration)}"),
        ("trainings", f"{training.completed:,}", f"{training.rejected} rejected"),
        ("invalid", f"{flow.dead_letters:,}", f"{flow.error_replies:,} error replies"),
    ]
    columns = 6 if width >= 110 else 3
    table = Table.grid(expand=True, padding=(0, 1))
    for _ in range(columns):
        table.add_column(ratio=1)
    for start in range(0, len(tiles), columns):
        table.add_row(*(_tile(*each) for each in tiles[start : start + columns]))
    return table


def _tile(name: str, value: str, words: str | None) -> Text:
    return Text.assemble((f"{name} ", "dim"), (value, "bold"), (f"\n{words or ''}\n", "dim"))


def _shown(value: float | None, show: Callable[[float], str]) -> str:
    return "–" if value is None else show(value)


def _flows(snapshot: Snapshot) -> Text:
    flow = snapshot.flow
    model = "no model" if snapshot.champion is None else f"model {snapshot.champion}"
    return _text(
        f"company → {flow.requests_per_second:.1f}/s → predictor ({model}) → "
        f"{flow.replies_per_second:.1f}/s;  outcomes {flow.outcomes_per_second:.1f}/s → trainer;  "
        f"retrain requests {flow.retrain_requests:,}"
    )


def _curves(snapshot: Snapshot, history: History | None, width: int) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    points = history.points if history else []
    seconds = history.interval if history else 1.0
    curves = [
        (snapshot.loss, [each.loss for each in points], figure),
        ("latency p99", [each.p99 for each in points], duration),
        ("requests/s", [each.requests / seconds for each in points[:-1]], lambda x: f"{x:.1f}"),
    ]
    for name, values, show in curves:
        known = [value for value in values if value is not None]
        if known:
            low_to_high = f"{show(min(known))} to {show(max(known))}"
            cells = (_text(name, "dim"), sparkline(values, max(width - 50, 10)), low_to_high)
            table.add_row(*cells)
    return table


def sparkline(values: list[float | None], width: int) -> str:
    """Return the values as blocks of eight heights, at most `width`; blank where none is known."""
    size = -(-len(values) // width)
    groups = [values[start : start + size] for start in range(0, len(values), size or 1)]
    known = [[value for value in group if value is not None] for group in groups]
    means = [sum(group) / len(group) if group else None for group in known]
    low, high = (edge((m for m in means if m is not None), default=0) for edge in (min, max))
    step = (high - low) / 7.999 or 1
    return "".join(" " if mean is None else BLOCKS[int((mean - low) / step)] for mean in means)


def _models(snapshot: Snapshot, rows: int, width: int) -> Table | Text:
    if not snapshot.models:
        return _text("\nNo model is known yet: initialize.py makes the first one.", "dim")
    names = list(dict.fromkeys(name for each in snapshot.models for name in each.figures))
    names = names[: max((width - 60) // 14, 1)]
    table = Table("model", "role", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("answers", "outcomes", *names):
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    table.add_column("why", ratio=1)
    for model in snapshot.models[:rows]:
        style = {"champion": "bold green", "rejected": "dim"}.get(model.role, "")
        table.add_row(*(_text(cell) for cell in _cells(model, names)), style=style)
    return table


def _cells(model: ModelState, names: Iterable[str]) -> Iterator[str]:
    yield from (str(model.model_id), model.role, f"{model.answers:,}", f"{model.outcomes:,}")
    yield from (_shown(model.figures.get(name), figure) for name in names)
    yield model.why


def _drift(drift: list[Drift], rows: int, width: int) -> Table:
    table = Table("drift", box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("of its threshold")
    for each in sorted(drift, key=_ratio, reverse=True)[:rows]:
        size = 20 if width >= 80 else 8
        filled = round(min(_ratio(each) / 2, 1) * size)
        bar = "█" * filled + "·" * (size - filled)
        state = "  ◆ drifted" if each.drifted else ""
        shown = f"{bar} {figure(each.value)} of {figure(each.threshold)}{state}"
        table.add_row(_text(each.name), _text(shown), style="yellow" if each.drifted else "")
    return table


def _ratio(drift: Drift) -> float:
    return max(drift.value, 0) / drift.threshold if drift.threshold > 0 else 2.0 * drift.drifted


def _lines(snapshot: Snapshot, rows: int) -> Group:
    lines = [
        _text(f"! {each.text} ({each.rule}, since {_clock(each.since)})", "bold red")
        for each in snapshot.alerts
        if each.end is None
    ]
    reasons = sorted(snapshot.flow.errors.items(), key=lambda each: -each[1])
    lines += [_text(f"{number:,} invalid: {reason}", "yellow") for reason, number in reasons[:3]]
    lines += [_text(f"– {note}", "dim") for note in snapshot.following.notes[:3]]
    for mark in snapshot.marks[: -rows - 1 : -1]:
        sign, name = MARKS.get(mark.kind, ("·", ""))
        model = "" if mark.model_id is None else f"model {mark.model_id} "
        what = f"{model}{name}: " if name else ""
        lines.append(_text(f"{_clock(mark.time)} {sign} {what}{mark.text}"))
    return Group(Text(), *lines)
