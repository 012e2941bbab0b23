"""One stream of requests, on which the real predictor and trainer make one model after another.

They have their default settings, except that each training is due after ROWS requests. Every
request brings its outcome.
"""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm

from tests.harness.pipeline import Pipeline, wait_until

ROWS = 60  # requests from one training to the next
TIMEOUT = 180  # seconds for a training


def new_rows(trainings: int) -> list[range]:
    """Return, for each training, which rows of adult.test it gets: all different."""
    return [range(first, first + ROWS) for first in range(0, trainings * ROWS, ROWS)]


def unseen_rows(trainings: int) -> slice:
    """Return the rows of adult.test that none of these trainings gets."""
    return slice(trainings * ROWS, None)


def generations(pipeline: Pipeline, rows: Sequence[Sequence[int]], what: str) -> Iterator[int]:
    """Yield the number of trainings after each training, while the next one waits.

    rows : of adult.test, for each training. The pipeline has a champion and no observations.
    """
    assert max(map(max, rows)) < len(pipeline.rows), "adult.test has too few rows"
    pipeline.environment["RETRAIN_EVERY"] = str(ROWS)
    with running(pipeline):
        for number, chosen in enumerate(tqdm(rows, what, disable=not sys.stderr.isatty()), 1):
            for row in chosen:
                pipeline.request(row)
            pipeline.producer.flush()
            wait_until(lambda due=number: pipeline.covered() >= due, TIMEOUT, "a training")
            yield number
    failures = [m for m in pipeline.messages("retrain_topic") if "training_failed" in m]
    assert not failures, failures


@contextmanager
def running(pipeline: Pipeline) -> Iterator[None]:
    """Run a predictor and a trainer; at the end let the trainer finish."""
    try:
        pipeline.predictor()
        trainer = pipeline.start_and_wait("trainer.py", until="waits for retrain requests")
        yield
        trainer.send_signal(signal.SIGTERM)
        trainer.wait(60)
    finally:
        pipeline.stop_all()
