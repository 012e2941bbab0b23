"""How long an answer takes, and the longest time without one, while other things happen."""

import shutil
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.table import Table
from tqdm import tqdm

from bench.arena import Arena, Case
from bench.visitors import LoneVisitor, Visitors
from utils.model_store.registry import Registry

RELOAD_EVERY = 2.0  # seconds
LONE = 3  # times the seconds of the other situations


def row(visitors: Visitors) -> dict[str, float]:
    """Return the figures of a run."""
    found = visitors.latencies()
    return {
        "p50": found[len(found) // 2],
        "p99": found[int(len(found) * 0.99)],
        "max": found[-1],
        "longest gap": visitors.longest_gap(),
    }


@contextmanager
def pipeline(arena: Arena, models: Path, partitions: int = 1, **environment: str) -> Iterator[Case]:
    """A case whose trainer may write: it has copies of the data and of the models."""
    with arena.case(models, partitions, **environment) as case:
        own = arena.folder / case.prefix
        shutil.copytree(arena.folder / "data", own / "data")
        shutil.copytree(models, own / "models")
        case.environment |= {"DATA_DIR": str(own / "data"), "MODELS_DIR": str(own / "models")}
        case.create_topic("outcomes_topic")
        yield case


def undisturbed(
    arena: Arena,
    models: Path,
    rate: float,
    seconds: float,
    predictors: int = 1,
    partitions: int = 1,
    visitors: type[Visitors] = Visitors,
) -> dict[str, float]:
    """Requests, and nothing else."""
    with pipeline(arena, models, partitions) as case:
        for number in range(predictors):
            case.predictor(PREDICTOR_ID=f"predictor-{number}")
        observed = visitors(case, rate)
        observed.run(seconds)
        return row(observed)


def alone(arena: Arena, models: Path, rate: float, seconds: float) -> dict[str, float]:
    """One request at a time, for LONE times as long: there are few of them."""
    return undisturbed(arena, models, rate, LONE * seconds, visitors=LoneVisitor)


def shared(arena: Arena, models: Path, rate: float, seconds: float) -> dict[str, float]:
    """Two predictors share four partitions."""
    return undisturbed(arena, models, rate, seconds, predictors=2, partitions=4)


def training(
    arena: Arena, models: Path, rate: float, seconds: float, *options: str
) -> dict[str, float]:
    """The trainer retrains on the same cores; the next training is always due."""
    with pipeline(arena, models, RETRAIN_EVERY="25") as case:
        case.predictor()
        case.requests(25)
        trainer = case.start("trainer.py", *options)
        case.wait_for_output(trainer, "Retraining:")
        visitors = Visitors(case, rate)
        visitors.run(seconds)
        trainer.send_signal(signal.SIGTERM)
        trainer.wait(60)
        assert not (options and case.covered()), "the training ended too early"
        return row(visitors)


def tuning(arena: Arena, models: Path, rate: float, seconds: float) -> dict[str, float]:
    """One training lasts all the time."""
    return training(arena, models, rate, seconds, "--max-evals", "1000")


def reloads(arena: Arena, models: Path, rate: float, seconds: float) -> dict[str, float]:
    """Another model is announced every RELOAD_EVERY seconds."""
    with pipeline(arena, models) as case:
        registry = Registry(arena.folder / case.prefix / "models")
        first, second = publish_a_copy(registry)
        predictor = case.predictor()

        def announce(duration: float) -> None:
            for n in range(int(duration / RELOAD_EVERY)):
                time.sleep(RELOAD_EVERY)
                message = {"training_completed": True, "model_id": (second, first)[n % 2]}
                registry.promote(message["model_id"])
                case.send(message, topic="retrain_topic")
                case.producer.flush()

        visitors = Visitors(case, rate)
        visitors.run(seconds, announce)
        swaps = predictor.log.read_text().count("answers from now on")
        assert swaps >= int(seconds / RELOAD_EVERY) - 1, f"{swaps} reloads only"
        return row(visitors)


def publish_a_copy(registry: Registry) -> tuple[int, int]:
    """Publish the champion a second time, with another id; return both ids."""
    card = registry.card(registry.champion_id())
    content, other = registry.content(card), registry.newest_id() + 1
    registry.publish(msgspec.structs.replace(card, model_id=other), content)
    return card.model_id, other


def rebalances(arena: Arena, models: Path, rate: float, seconds: float) -> dict[str, float]:
    """A second predictor joins, and later leaves, on four partitions."""
    with pipeline(arena, models, 4) as case:
        case.predictor()

        def join_and_leave(duration: float) -> None:
            time.sleep(duration / 3)
            second = case.predictor(PREDICTOR_ID="predictor-1")
            time.sleep(duration / 3)
            second.send_signal(signal.SIGTERM)
            second.wait(30)
            time.sleep(duration / 3)

        visitors = Visitors(case, rate)
        visitors.run(seconds, join_and_leave)
        return row(visitors)


SITUATIONS = (  # of each rate the undisturbed one first
    ("one at a time", alone, 10),
    ("50 requests/s", undisturbed, 50),
    ("500/s", undisturbed, 500),
    ("500/s, the trainer tunes all the time", tuning, 500),
    ("500/s, one retraining after another", training, 500),
    ("500/s, a new model every 2 s", reloads, 500),
    ("500/s on 4 partitions, two predictors", shared, 500),
    ("500/s on 4 partitions, a second predictor joins and leaves", rebalances, 500),
)


def latency_table(arena: Arena, models: dict[str, Path], rounds: int, seconds: float) -> Table:
    """Return the medians of all rounds; the ratio is to the first situation with the same rate."""
    cases = [(name, situation) for name in models for situation in SITUATIONS]
    found: dict[tuple, list[dict[str, float]]] = {case: [] for case in cases}
    for case in tqdm(cases * rounds, unit="run", disable=not sys.stderr.isatty()):
        name, (_, situation, rate) = case
        found[case].append(situation(arena, models[name] / "models", rate, seconds))
    columns = "p50", "p99", "max", "longest time without an answer", "p99, ratio to undisturbed"
    table = Table("latency, ms", "model", *columns)
    calm_runs: dict[tuple, list[dict[str, float]]] = {}
    for (name, (title, _, rate)), runs in found.items():
        figures = [f"{statistics.median(run[key] for run in runs):.1f}" for key in runs[0]]
        pairs = zip(runs, calm_runs.setdefault((name, rate), runs), strict=True)
        ratio = statistics.median(run["p99"] / calm["p99"] for run, calm in pairs)
        table.add_row(title, name, *figures, f"{ratio:.2f}")
    return table
