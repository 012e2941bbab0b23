"""Live figures on their way to MLflow: what stays when there is no place for all of them."""

import json
from pathlib import Path

import pytest

from monitoring.snapshot import (
    ModelState,
    Snapshot,
)
from monitoring.tracking import mlflow_live, tracking


def live(file: Path) -> list[dict]:
    """Return the samples in this file."""
    return [json.loads(line) for line in file.read_text().splitlines() if line]


@pytest.fixture
def samples(tmp_path, monkeypatch) -> Path:
    """The file of samples, with none in it."""
    monkeypatch.setattr(mlflow_live, "SAMPLES", tmp_path / "samples")
    return tmp_path / "samples"


def test_too_many_samples_are_thinned_out_but_no_date_of_a_champion(samples, monkeypatch):
    monkeypatch.setattr(mlflow_live, "MAX_BYTES", 1_000)
    for time in range(100):
        mlflow_live.append({"time": time, "models": {}}, {"time": time, "champion": time})
        mlflow_live.append({"time": time, "models": {}})
    mlflow_live.thin_out()
    found = live(samples)
    assert [each["time"] for each in found if "champion" in each] == [*range(100)]
    assert 190 < len(found) < 210
    monkeypatch.setattr(mlflow_live, "MAX_BYTES", 10_000)
    mlflow_live.thin_out()
    assert live(samples) == found


def test_figures_that_the_disk_had_no_place_for_are_sampled_again(samples, monkeypatch):
    monkeypatch.setattr(tracking, "SAMPLE_EVERY", 0.0)
    monkeypatch.setattr(tracking.Tracking, "_is_due", lambda self: False)
    tracked = tracking.Tracking()
    tracked._is_on = True
    snapshot = Snapshot(1.0, models=[ModelState(0, "champion", answers=5, mean_loss=0.3)])
    samples.mkdir()  # it can't be written
    tracked.step(snapshot)
    samples.rmdir()
    tracked.step(snapshot)
    tracked.step(snapshot)
    [sample] = live(samples)
    assert sample["models"]["0"]["answers"] == 5
