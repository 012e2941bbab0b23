"""Shows how a request was answered, by which model and why, and computes the answer again.

    python -m tools.audit 5f0c2a3e-...                # one request, or several
    python -m tools.audit --ids FILE                  # one id a line
    python -m tools.audit --from 2026-11-25T10:00 --to 2026-11-25T11:00
    python -m tools.audit --ids FILE --json >FILE     # one JSON object a line

Each prediction is computed again from the request's own bytes, with the model that gave it, and is
the same to the bit or it is said what differs: a forged reply, for example. The messages come from
the monitor's archive (AUDIT_REQUESTS, AUDIT_DAYS) and from Kafka, replaced models from theirs
(AUDIT_MODELS). Times are UTC unless they have an offset. The exit code is 1 if a request is unknown
or an answer is not what the model says. What is shown is personal data.
"""

import json
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import UTC, datetime
from itertools import islice

import msgspec

from monitoring.audit.audit_text import audit_lines
from monitoring.audit.audits import Audit, audit
from monitoring.audit.past_messages import PastMessages
from utils.console import say
from utils.model_store.registry import Registry
from utils.script import command_line, run

AT_ONCE = 10_000  # requests whose messages are in memory


def main() -> None:
    """Show the requests that the command line names."""
    arguments = _arguments()
    first, last = _range(arguments)
    wanted = [*arguments.request_id, *(_read_ids(arguments.ids) if arguments.ids else ())]
    with redirect_stdout(sys.stderr):  # what is said about Kafka is no part of the result
        past = PastMessages(first)
        if not wanted:
            wanted = past.ids_between(first or 0, last)
    if not wanted:
        raise SystemExit(f"No request in this range (looked in {_places(past)}).")
    right = total = 0
    for each in _audits(past, wanted):
        right, total = right + each.is_right, total + 1
        if arguments.json:
            print(json.dumps(msgspec.to_builtins(each)))  # ASCII: all else is escaped
        else:
            show(each, _places(past))
    if total > 1:
        print(f"{total:,} requests, {right:,} of them right.", file=sys.stderr)
    raise SystemExit(right < total)


def _audits(past: PastMessages, request_ids: list[str]) -> Iterator[Audit]:
    registry, rest = Registry(), iter(dict.fromkeys(request_ids))
    while some := list(islice(rest, AT_ONCE)):
        with redirect_stdout(sys.stderr):
            found = past.of(some)
        for request_id, messages in found.items():
            yield audit(request_id, messages, registry)


def show(found: Audit, places: str) -> None:
    """Print one request in words."""
    say(f"Request {found.request_id}", "bold")
    if not found.asked:
        say(f"  not found (looked in {places})", "red")
    for line, style in audit_lines(found):
        say(f"  {line}", style)


def _arguments() -> Namespace:
    parser = command_line(__doc__, "tools.audit")
    parser.add_argument("request_id", nargs="*", help="ids of requests")
    parser.add_argument(
        "--ids", metavar="FILE", help="a file with one id a line; -: standard input"
    )
    parser.add_argument("--from", dest="first", type=_time, metavar="TIME", help="2026-11-25T10:00")
    parser.add_argument("--to", dest="last", type=_time, metavar="TIME", help="requests until then")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    if not (arguments.request_id or arguments.ids or arguments.first or arguments.last):
        parser.error("name requests, a file of ids, or a range of time")
    return arguments


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"expected a time like 2026-11-25T10:00, got {text!r}") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _range(arguments: Namespace) -> tuple[int | None, int]:
    """Return the range in ms since 1970; None for no begin."""
    first, last = arguments.first, arguments.last or datetime.now(UTC)
    return int(first.timestamp() * 1000) if first else None, int(last.timestamp() * 1000)


def _read_ids(name: str) -> list[str]:
    try:
        with open(0 if name == "-" else name, encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\r\n") for line in file if line.strip()]
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise SystemExit(f"--ids: {name}: {getattr(error, 'strerror', error)}") from None


def _places(past: PastMessages) -> str:
    return " and ".join(past.looked) or "no place: there is no archive, and Kafka is away"


if __name__ == "__main__":
    run(main)
