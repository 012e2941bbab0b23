"""The promises hold while random faults hit every process: see tests/chaos/run.py."""

from argparse import Namespace

import pytest

from tests.chaos import day
from tests.chaos.run import Options, run


@pytest.mark.slow
def test_a_few_random_faults():
    audit = run(Options(faults=4, seed=3, rate=100, gap=(0.2, 2)))
    assert (audit.lost, audit.duplicates) == (0, 0)
    assert not audit.violations


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_minutes_of_random_faults():
    audit = run(Options(minutes=3, seed=11))
    assert (audit.lost, audit.duplicates) == (0, 0)
    assert not audit.violations


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_very_short_day():
    options = Namespace(
        minutes=0.5, requests=30_000, retrain_every=5_000, window=10_000, keep="20000"
    )
    assert not day.run(options)
