"""How often the monitor makes its figures."""

from types import SimpleNamespace

import pytest

from monitoring import pace
from monitoring.pace import Pace


@pytest.fixture
def clock(monkeypatch):
    """A clock of both kinds that a test moves."""
    clock = SimpleNamespace(now=100.0, cpu=5.0)
    clock.monotonic, clock.thread_time = lambda: clock.now, lambda: clock.cpu
    monkeypatch.setattr(pace, "time", clock)
    return clock


def look(rate: Pace, clock: SimpleNamespace, cpu: float) -> float:
    """Wait until a look is due, do one that takes so much CPU, and return how long the wait was."""
    began = clock.now
    while not rate.is_due():
        clock.now += 0.01
    clock.cpu += cpu
    rate.rest()
    return clock.now - began


def test_cheap_looks_come_once_a_second(clock):
    rate = Pace()
    assert [round(look(rate, clock, cpu=0.01), 1) for _ in range(4)] == [0, 1, 1, 1]


def test_costly_looks_take_a_twentieth_of_a_core_but_the_page_is_never_stale(clock):
    rate = Pace()
    waits = [look(rate, clock, cpu=0.1) for _ in range(4)]
    # The first look alone is no rule: it imports, and fills caches.
    assert [round(wait, 1) for wait in waits] == [0, 1, 2, 2]
    assert [round(look(rate, clock, cpu=3.0), 1) for _ in range(3)] == [2, 2, 4]
