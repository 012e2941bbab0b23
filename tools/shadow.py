"""Lets a candidate answer the live requests silently, beside the champion's real answers.

    python -m tools.shadow 7                   # a model of models/ or its archive, until Ctrl-C
    python -m tools.shadow elsewhere/model_7.p # one made elsewhere, its card beside it
    python -m tools.shadow 7 --minutes 30 --json
    python -m tools.shadow 7 --outcomes 2000   # until so many outcomes are known

It reads what any observer could read, the requests that come from now on, their answers and their
outcomes, and writes to no topic. At the end it says how often both agree, which one has the lower
loss on the same requests, and what the judge of a training would decide. It keeps nothing: a run
that was killed is lost, and the next one begins anew. --from-beginning reads all that Kafka has
instead; the candidate may have been trained on these requests, and then seems too good.
`python -m tools.models promote 7` makes the candidate the champion.
"""

import os
import re
import sqlite3
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path

import msgspec
from kafka.errors import KafkaError
from rich.console import Console
from rich.live import Live

from monitoring.figures.database import Damaged
from monitoring.figures.shadow import Shadow
from tools.shadow_result import Result, result_of, view
from utils.console import say, speak_on_stderr, warn
from utils.kafka_client.reader import Positions, Reader
from utils.kafka_client.records import Position
from utils.kafka_client.topics import APP_MESSAGES, OUTCOMES_TOPIC, prepare_topics
from utils.model_store.archive import Archive
from utils.model_store.model import Model, decode, load
from utils.model_store.registry import ModelError, Registry
from utils.process import collect_garbage_rarely, lower_priority, stop_on_signals, stopping
from utils.script import command_line, run

READS = (APP_MESSAGES, OUTCOMES_TOPIC)
TIMES_THE_COST = 20  # the pause after the figures were computed


def find_model(text: str) -> Model:
    """Return the model with this id, or in this file; ModelError if there is none that loads.

    Of several archived models with the id it is the one that was archived last.
    """
    found = re.fullmatch(r"(?:(.*/)?model_)?([0-9]{1,15})(\.p)?", text)
    if not found or bool(found[3]) != ("model_" in text):
        expected = "a model's id, or the path of its file, such as models/model_7.p"
        raise ModelError(f"CANDIDATE: expected {expected}, got {text[:200]!r}")
    registry, model_id = Registry(Path(found[1] or ".") if found[3] else None), int(found[2])
    if found[3] or model_id in registry.ids():
        return load(registry, model_id)
    archive = Archive(registry.place)
    if not (archived := [*archive.cards(model_id)]):
        raise ModelError(f"there is no model {model_id}: see python -m tools.models list")
    return decode(archived[-1], archive.content(archived[-1]))


_answering = lru_cache(2)(find_model)


def champion(model_id: int) -> Model | None:
    """Return a model that has answered, None if it can't be loaded now."""
    try:
        return _answering(str(model_id))
    except (ModelError, OSError):  # or its store is away
        return None


class Following:
    """Lets a candidate answer what the topics bring: step() again and again.

    KafkaError if the topics can't be found.
    """

    def __init__(self, candidate: Model, from_beginning: bool) -> None:
        self._candidate, self._is_failing = candidate, False
        self._shadow, self._reader = Shadow(candidate), Reader({}, *READS)
        ends = {} if from_beginning else self._reader.ends(stable=True)
        self._positions = {partition: Position(end) for partition, end in ends.items()}
        self._reader.return_to(self._positions)
        self._began = time.monotonic()

    def step(self) -> None:
        """Poll once, for half a second at most; an error of Kafka is said once."""
        try:
            polled = self._reader.poll()
        except KafkaError as error:
            if not self._is_failing:
                warn(f"{type(error).__name__}: {error}. Trying again.")
            self._is_failing = True
            time.sleep(1)
            self._reader.return_to(self._positions)
            return
        self._is_failing = False
        if self._has_gone_back(polled.positions):  # offsets are those of other records now
            warn("Kafka has lost records that were read: the comparison begins anew.")
            self._shadow.close()
            self._shadow = Shadow(self._candidate)
        self._positions = self._positions | polled.positions
        self._shadow.add(polled.records, time.time())

    def _has_gone_back(self, positions: Positions) -> bool:
        known = self._positions
        return any(p in known and each.offset < known[p].offset for p, each in positions.items())

    def is_enough(self, chosen: Namespace) -> bool:
        """Return whether one of the limits of the command line is reached."""
        minutes, found = (time.monotonic() - self._began) / 60, self._shadow
        return (
            (chosen.minutes is not None and minutes >= chosen.minutes)
            or (chosen.requests is not None and found.compared >= chosen.requests)
            or (chosen.outcomes is not None and found.observations >= chosen.outcomes)
        )

    def result(self) -> Result:
        """Return what is known now."""
        seconds = time.monotonic() - self._began
        return result_of(self._shadow, self._candidate, champion, seconds)

    def close(self) -> None:
        """Close the consumers, and delete the temporary file."""
        self._reader.close()
        self._shadow.close()


def follow(following: Following, chosen: Namespace, show: Callable[[Result], None] | None) -> None:
    """Follow the topics until a limit is reached, or Ctrl-C; show the result now and then."""
    due = 0.0
    while not stopping() and not following.is_enough(chosen):
        try:
            following.step()
        except (sqlite3.OperationalError, Damaged) as error:
            return warn(f"The temporary folder can't be used ({error}): the comparison ends here.")
        if show and (began := time.monotonic()) >= due:
            show(following.result())
            due = time.monotonic() + max(TIMES_THE_COST * (time.monotonic() - began), 1)


@contextmanager
def live_view() -> Iterator[Callable[[Result], None] | None]:
    """Yield a function that shows a result on the terminal until the block ends; None elsewhere."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_interactive:
        yield None
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        console.show_cursor(True)  # a second Ctrl-C exits at once and would leave it hidden
        yield lambda result: live.update(view(result), refresh=True)


def parse_arguments() -> Namespace:
    """Return the options of the command line."""
    parser = command_line(__doc__, "tools.shadow")
    add = parser.add_argument
    add("candidate", metavar="CANDIDATE", help="a model's id, or the path of its file")
    add("--minutes", type=float, help="end after so many minutes")
    add("--requests", type=int, help="end when so many requests are answered by both")
    add("--outcomes", type=int, help="end when the outcomes of so many of them are known")
    add("--from-beginning", action="store_true", help="read all that Kafka has, not only new ones")
    add("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args()


def main() -> None:
    """Compare until the end that was chosen, and print the result."""
    chosen = parse_arguments()
    if chosen.json:
        speak_on_stderr()
    lower_priority(os.getpid())  # predictors come first
    stop_on_signals()
    try:
        candidate = find_model(chosen.candidate)
    except ModelError as error:
        raise SystemExit(f"Not compared: {error}") from None
    prepare_topics(read=READS)
    with closing(Following(candidate, chosen.from_beginning)) as following:
        collect_garbage_rarely()
        say(f"Model {candidate.model_id} answers silently; Ctrl-C shows the result.", "bold")
        with nullcontext() if chosen.json else live_view() as show:
            follow(following, chosen, show)
        result = following.result()
    if chosen.json:
        print(msgspec.json.encode(result).decode())
    else:
        Console(highlight=False, markup=False, emoji=False).print(view(result))


if __name__ == "__main__":
    run(main)
