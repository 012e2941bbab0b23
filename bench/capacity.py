"""What 10^5, 10^6 and 10^7 requests/s take, from costs that are measured in the run.

    python -m bench.capacity                           # some minutes; prints Markdown
    python -m bench.capacity --write                   # into docs/capacity.md, below its marker
    python -m bench.capacity --hours 168 --copies 2    # another retention, other replication

It starts a Kafka of its own, measures the real predictor, trainer, monitor and training process on
this machine, and multiplies. All figures beyond this machine are extrapolated: they say in what
order limits are reached, not what a cluster will do. Change PRICES and BROKER to your own. Linux
only (/proc).
"""

import math
import tempfile
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from bench.costs import Costs, measure
from tests.harness.brokers import own_pipeline
from utils.files import ROOT
from utils.script import command_line, run

RATES = (10**5, 10**6, 10**7)
HEADROOM = 0.5  # of each limit is planned with
READERS = 4  # of app_messages: predictors, the company, trainer, monitor
ZONES = 3
MONTH = 730  # hours
PAGE, MARKER = (
    ROOT / "docs" / "capacity.md",
    "<!-- below: what bench.capacity --write has measured -->\n",
)

# US dollars: AWS, us-east-1, Linux, on demand, without discounts. They are those of public price
# tables of 2025 and 2026, looked up in November 2026; a vCPU counts as one core of this machine.
PRICES = {
    "vCPU, an hour": 0.1785 / 4,  # c7i.xlarge
    "broker, an hour": 1.6128,  # m7i.8xlarge
    "GB of disk, a month": 0.08,  # EBS gp3
    "MB/s of disk above 125, a month": 0.04,  # EBS gp3
    "GB to another zone": 0.02,  # 0.01 for each of the two sides
}
BROKER = {"cores": 32, "network, MB/s": 12.5e9 / 8e6, "disk, MB/s": 1000}  # m7i.8xlarge, one gp3


def demand(rate: int, costs: Costs, chosen: Namespace, size: float) -> dict[str, float]:
    """Return what a rate takes, and what that costs in dollars a month; size : bytes a request."""

    def needed(load: float, limit: float) -> int:
        return math.ceil(load / limit / HEADROOM)

    written, copies = rate * size / 1e6, chosen.copies  # MB/s
    out = written * (copies - 1 + READERS)
    brokers = {
        "by network": needed(out, BROKER["network, MB/s"]),
        "by disk": needed(written * copies, BROKER["disk, MB/s"]),
        "by CPU": needed(rate * costs.broker * copies / 1e6, BROKER["cores"]),
    }
    number = max(copies, 3, *brokers.values())
    cores = {
        name: needed(rate * getattr(costs, name) / 1e6, 1)
        for name in ("predictor", "trainer", "monitor")
    }
    disk = written * copies * chosen.hours * 3.6  # GB
    crossing = written * (copies - 1 + (1 + READERS) * (ZONES - 1) / ZONES)  # MB/s
    throughput = max(written * copies / HEADROOM - 125 * number, 0)
    money = {
        "predictors": cores["predictor"] * PRICES["vCPU, an hour"] * MONTH,
        "trainers and monitors": (cores["trainer"] + cores["monitor"])
        * PRICES["vCPU, an hour"]
        * MONTH,
        "brokers": number * PRICES["broker, an hour"] * MONTH,
        "disk": disk * PRICES["GB of disk, a month"]
        + throughput * PRICES["MB/s of disk above 125, a month"],
        "between zones": crossing * 3.6 * MONTH * PRICES["GB to another zone"],
    }
    return {
        "predictors, one core each; at least as many partitions": cores["predictor"],
        "MB/s written, before replication": written,
        "MB/s read and replicated": out,
        **{f"brokers {name}": value for name, value in brokers.items()},
        "**brokers**": number,
        f"TB on disk, {chosen.hours} h": disk / 1000,
        "TB of disk a broker": disk / 1000 / number,
        "trainers, if each had a part of the requests": cores["trainer"],
        "monitors, if each had a part of the requests": cores["monitor"],
        "GB a day in the trainers' stores, all outcomes known": rate * costs.stored * 86_400 / 1e9,
        **{f"$ a month: {name}": value for name, value in money.items()},
        "**$ a month**": sum(money.values()),
        "$ for a million requests": sum(money.values()) / (rate * MONTH * 3600 / 1e6),
    }


def page(costs: Costs, chosen: Namespace) -> str:
    """Return all tables as Markdown."""
    network = BROKER["network, MB/s"] * 3 / (costs.plain * (chosen.copies - 1 + READERS)) * 1e6
    limits = {
        "one trainer: reads each request, stores it with its outcome": 1e6 / costs.trainer,
        "one monitor: reads each request, reply and outcome": 1e6 / costs.monitor,
        "one predictor, or one partition": 1e6 / costs.predictor,
        "network of three brokers": network,
    }
    measured = {
        "us of CPU a request: predictor": costs.predictor,
        "Kafka, one replica, with the producer's and the consumer's requests": costs.broker,
        "trainer, a request and its outcome": costs.trainer,
        "monitor, a request, its reply and its outcome": costs.monitor,
        "bytes a request in Kafka: request, reply, transaction": costs.plain,
        "request, reply and outcome, all of it lz4": costs.packed,
        "bytes an observation in the trainer's store": costs.stored,
        **{
            f"a training of {each.observations:,} observations, {what}": value
            for each in costs.trainings
            for what, value in (("CPU s", each.cpu_seconds), ("MB", each.megabytes))
        },
    }
    parts = [
        markdown(("measured on this machine", ""), measured.items()),
        markdown(
            ("reached first (extrapolated)", "requests/s"),
            sorted(limits.items(), key=lambda x: x[1]),
        ),
    ]
    for name, size in (("not compressed", costs.plain), ("all of it lz4", costs.packed)):
        columns = [demand(rate, costs, chosen, size) for rate in RATES]
        rows = [(row, *(each[row] for each in columns)) for row in columns[0]]
        heads = (f"requests/s ({name}; extrapolated)", *(f"{rate:,}" for rate in RATES))
        parts.append(markdown(heads, rows))
    window = [
        (f"{number:,}", *costs.training(number), *(number / rate for rate in RATES))
        for number in (10**6, 10**7, 10**8)
    ]
    heads = ("observations of a training (extrapolated)", "CPU s", "GB")
    heads += tuple(f"seconds of traffic at {rate:,}/s" for rate in RATES)
    prices = [(name, f"{price:.4f}") for name, price in PRICES.items()]
    return "\n".join([*parts, markdown(heads, window), markdown(("price", "$"), prices)])


def markdown(heads: tuple, rows: Iterable[tuple]) -> str:
    """Return a table; numbers have at most three significant digits after the thousands."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def main() -> None:
    """Measure, compute, and print or write."""
    parser = command_line(__doc__, "bench.capacity")
    add = parser.add_argument
    add("--requests", type=int, default=100_000, help="of each measured case (100000)")
    add("--rows", type=int, default=400_000, help="of the larger training (400000)")
    add("--hours", type=int, default=24, help="that Kafka keeps messages (24)")
    add("--copies", type=int, default=3, help="replication of the topics (3)")
    add("--write", action="store_true", help="write into docs/capacity.md")
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="capacity-") as folder,
        own_pipeline(Path(folder), "capacity-") as pipeline,
    ):
        found = page(measure(pipeline, chosen.requests, chosen.rows), chosen)
    print(found)
    if chosen.write:
        before = PAGE.read_text().partition(MARKER)[0]
        PAGE.write_text(before + MARKER + "\n" + found)


if __name__ == "__main__":
    run(main)
