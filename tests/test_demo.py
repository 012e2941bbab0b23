"""`make demo` from its first line to its last, on the tests' broker."""

import re
import socket

import pytest

from tests.harness.pages import not_printed, shown_in_readme
from tools.local_kafka import free_port

PERSON = r"sample_app\.1 \| \d+, [\w?-]+ -> [01]\.\d\d, (no )?offer; (right|wrong)$"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-"


@pytest.mark.slow
def test_the_demo_shows_people_a_page_and_a_summary(pipeline):
    port = pipeline.environment["MONITOR_PORT"] = str(free_port())
    shown = pipeline.run("tools.demo", "--messages", "60", "--interval", "0.1").stdout.decode()
    assert len(re.findall(PERSON, shown, re.MULTILINE)) == 60
    assert not re.search(UUID, shown)
    output = re.sub(r"^.*predictor\.1 *\| ", "", shown, flags=re.MULTILINE)
    assert not_printed(shown_in_readme("predictor.1"), output) == []
    assert f"monitor.1 | The page is open: http://127.0.0.1:{port}\n" in shown
    assert "60 requests sent, 0 not answered, " in shown
    for name, value in (("requests without an answer", 0), ("duplicate answers", 0)):
        assert re.search(rf"{name} *│ {value} ", shown)
    assert re.search(r"retrain requests *│ 2 ", shown)
    assert re.search(r"trainings *│ [12] (completed|rejected)", shown)
    assert re.search(r"accuracy of 60 answers *│ 0\.\d{3} \(95 %: 0\.\d{3} to 0\.\d{3}\)", shown)


@pytest.mark.slow
def test_the_demo_goes_on_without_the_page(pipeline):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = pipeline.environment["MONITOR_PORT"] = str(taken.getsockname()[1])
        shown = pipeline.run("tools.demo", "--messages", "30", "--interval", "0.1").stdout.decode()
    assert f"MONITOR_PORT: {port} can't be used on 127.0.0.1: " in shown
    assert "30 requests sent, 0 not answered, " in shown


@pytest.mark.slow
def test_the_demo_fails_if_the_sample_app_does(pipeline):
    (pipeline.folder / "data" / "adult.test").write_bytes(b"damaged")
    ended = pipeline.run("tools.demo", "--messages", "3", "--interval", "0.1", code=1)
    assert ended.stderr.decode().endswith("The sample app did not get all answers; see above.\n")
    assert "run python initialize.py" in ended.stdout.decode()
