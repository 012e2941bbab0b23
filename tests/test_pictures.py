"""tools/pictures.py: when a picture is taken, and which part of the page it has."""

import json
import time
from contextlib import closing

import msgspec
import pytest

from monitoring.page.page import Page
from monitoring.snapshot import Alert, Snapshot
from tests import page_samples as samples
from tools.pictures import CHROMIUM, PAGE, browser, has_recovered, is_useless, save, show


def sent(snapshot: Snapshot) -> dict:
    return json.loads(msgspec.json.encode(snapshot))


def test_a_drift_is_taken_when_the_alert_has_lasted():
    snapshot = samples.alarming(now=1000.0)
    assert not is_useless(sent(snapshot))
    snapshot.alerts.append(Alert("useless", "The log loss is too high.", 990.0))
    assert not is_useless(sent(snapshot))
    snapshot.alerts[-1].since = 960.0
    assert is_useless(sent(snapshot))
    snapshot.alerts[-1].end = 999.0
    assert not is_useless(sent(snapshot))


def test_a_recovery_is_taken_when_another_model_has_outcomes():
    assert has_recovered(sent(samples.running(now=1000.0, champion=7)))
    assert not has_recovered(sent(samples.running(now=1000.0, champion=0)))
    snapshot = samples.running(now=1000.0)
    snapshot.models[1].outcomes = 20
    assert not has_recovered(sent(snapshot))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_picture_ends_where_the_curves_do(tmp_path):
    from PIL import Image

    with closing(Page("127.0.0.1", 0)) as page, browser() as open_tab:
        page.publish(samples.running(time.time()), samples.histories(time.time()))
        tab = open_tab(PAGE)
        show(tab, page.address, "body:not(.stale)")
        save(tab, tmp_path / "whole.png")
        save(tab, tmp_path / "part.png", "header", "#curves")
    with Image.open(tmp_path / "whole.png") as whole, Image.open(tmp_path / "part.png") as part:
        assert part.mode == "P"
        assert part.width == whole.width == 1050
        assert part.width / 2 < part.height < whole.height
