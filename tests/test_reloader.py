"""Which model a predictor loads, and when: floods of announcements, files that arrive late."""

import shutil
import threading
import time

import pytest

from tests.harness.pipeline import wait_until
from tests.test_faults import announce, copy_of_the_first_model, promote


@pytest.fixture
def forged_flood(pipeline):
    """Announces models 1 and 2, which are not the champion, a thousand times a second."""
    stop, sent = threading.Event(), []

    def flood() -> None:
        while not stop.wait(0.01):
            for number in range(10):
                message = {"training_completed": True, "model_id": 1 + number % 2}
                pipeline.send(message, topic="retrain_topic")
                sent.append(number)

    thread = threading.Thread(target=flood)
    yield thread, sent
    stop.set()
    thread.join()


@pytest.mark.slow
def test_a_flood_of_forged_announcements_loads_nothing_and_delays_no_promotion(
    pipeline, forged_flood
):
    predictor = pipeline.predictor()
    for model_id in (1, 2, 3):
        copy_of_the_first_model(pipeline, model_id)
    thread, sent = forged_flood
    thread.start()
    wait_until(lambda: len(sent) > 3_000)
    promote(pipeline, 3)
    promoted = time.monotonic()
    pipeline.wait_for_output(predictor, "Model 3 answers", timeout=10)
    print(f"{len(sent)} forged, promoted after {time.monotonic() - promoted:.2f} s")
    pipeline.requests(5)
    assert {reply["model_id"] for reply in pipeline.wait_for_replies(5)} == {3}
    assert predictor.log.read_text().count("answers from now on") == 1


@pytest.mark.slow
def test_a_champion_whose_file_arrives_late_is_loaded_then(pipeline):
    predictor = pipeline.predictor()
    copy_of_the_first_model(pipeline, 1)
    content = pipeline.folder / "models" / "model_1.p"
    shutil.move(content, pipeline.folder)
    promote(pipeline, 1)
    pipeline.wait_for_output(predictor, "model_1.p is missing")
    for _ in range(20):
        announce(pipeline, 1)
    time.sleep(3)  # the fault itself
    shutil.move(pipeline.folder / "model_1.p", content)
    pipeline.wait_for_output(predictor, "Model 1 answers", timeout=10)
    assert predictor.log.read_text().count("Can't use the announced model") == 1


def test_a_champion_that_nobody_announced_is_loaded(pipeline):
    predictor = pipeline.predictor()
    copy_of_the_first_model(pipeline, 1)
    (pipeline.folder / "models" / "champion.json").write_text('{"model_id": 1}')
    pipeline.wait_for_output(predictor, "Model 1 answers", timeout=10)
