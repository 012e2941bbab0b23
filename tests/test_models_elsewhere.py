"""The whole pipeline with its models in an object store, which is slow, lies, and goes away."""

import json
import os
import signal
import time

import pytest
from pydantic import SecretStr

from tests.harness.brokers import QUICK
from tests.harness.object_store import Fault, FaultProxy
from tests.harness.pipeline import Pipeline, wait_until
from utils.model_store import signing
from utils.model_store.registry import Registry
from utils.settings import settings

KEY = "k" * 32
TRAINING = 600  # seconds: it has the lowest priority
AWAY = float(os.environ.get("SECONDS_AWAY", "60"))


@pytest.fixture
def proxy(object_store):
    proxy = FaultProxy(object_store.address)
    yield proxy
    proxy.close()


@pytest.fixture
def place(pipeline, object_store, proxy, monkeypatch) -> str:
    """Where the models of `pipeline` are from now on: nowhere yet."""
    url = f"s3://{object_store.bucket}/{pipeline.prefix}models"
    pipeline.environment |= {"MODELS_DIR": url, "MODELS_KEY": KEY, **proxy.environment}
    for name, value in proxy.environment.items():
        monkeypatch.setenv(name, value)
    return url


def copy_models(pipeline: Pipeline, place: str) -> Registry:
    """Put the first model into the object store, as the models 0, the champion, and 1."""
    registry, source = Registry(place), Registry(pipeline.folder / "models")
    for model_id in (0, 1):
        card = source.card(0)
        content = source.content(card)
        card.model_id = model_id
        registry.publish(card, content)
    registry.promote(0)
    return registry


@pytest.mark.slow
def test_a_predictor_follows_the_pointer_and_goes_on_while_the_store_is_away(
    pipeline, place, proxy, monkeypatch
):
    registry = copy_models(pipeline, place)
    keyed = settings.model_copy(update={"models_key": SecretStr(KEY)})
    monkeypatch.setattr(signing, "settings", keyed)
    for model_id in (0, 1):
        registry.write_card(registry.card(model_id, verify=False))
    proxy.is_away = True
    predictor = pipeline.start("predictor.py")
    pipeline.wait_for_output(predictor, f"Waiting for the models: {place} can't be used: ")
    proxy.is_away = False
    pipeline.wait_for_output(predictor, " answers with model 0")
    pipeline.requests(5)
    assert {reply["model_id"] for reply in pipeline.wait_for_replies(5)} == {0}
    proxy.is_away = True
    pipeline.wait_for_output(predictor, "Going on with what is known.")
    pipeline.requests(5)
    pipeline.wait_for_replies(10)
    proxy.is_away = False
    registry.promote(1)  # and nobody announces it
    pipeline.wait_for_output(predictor, "Model 1 answers from now on.")
    assert predictor.log.read_text().count("Going on with what is known") == 1


@pytest.mark.slow
def test_unsigned_models_are_refused_until_they_are_signed(pipeline, place):
    copy_models(pipeline, place)
    predictor = pipeline.start("predictor.py")
    pipeline.wait_for_output(
        predictor, "No model can be used (model 1: model_1.json is not signed): "
    )
    assert predictor.wait(timeout=15) == 1
    assert "2 cards are signed now" in pipeline.run("tools.models", "sign").stdout.decode()
    pipeline.predictor()


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_a_whole_life_with_a_store_that_fails(pipeline, place, proxy):
    pipeline.run("initialize", *QUICK)
    registry = Registry(place)
    assert registry.champion_id() == 0
    predictor, trainer = pipeline.predictor(), pipeline.trainer()
    for number, path in enumerate(("/model_1-", "/model_2.json", "/champion.json"), start=1):
        kind = ("half", "lost", "lost")[number - 1]
        proxy.faults.append(Fault(kind, "PUT", path))
        pipeline.requests(25)
        pipeline.wait_for_output(predictor, f"Model {number} answers", timeout=TRAINING)
        assert not proxy.faults
    # The store is away while a model is trained, and for a minute.
    pipeline.requests(25)
    pipeline.wait_for_output(trainer, "Retraining: model 4", timeout=TRAINING)
    proxy.is_away = True
    began = time.monotonic()
    answered = 100
    while time.monotonic() < began + AWAY:
        answered += len(pipeline.requests(5))
        pipeline.wait_for_replies(answered, timeout=20)
    assert (predictor.poll(), trainer.poll()) == (None, None)
    proxy.is_away = False
    wait_until(lambda: registry.champion_id() >= 4, TRAINING, "a model after the outage")
    pipeline.wait_for_output(predictor, "Model 4 answers", timeout=TRAINING)
    # Killed in the middle of its work, the trainer completes it.
    proxy.faults.append(Fault("slow", "PUT", "/model_"))
    pipeline.requests(25)
    wait_until(lambda: not proxy.faults, TRAINING, "a publication")
    os.killpg(trainer.pid, signal.SIGKILL)
    trainer = pipeline.trainer()
    champion = registry.champion_id()
    wait_until(lambda: registry.champion_id() > champion, TRAINING, "a model after the kill")
    pipeline.wait_for_output(predictor, f"Model {registry.champion_id()} answers", timeout=60)
    replies = pipeline.replies()
    assert len(replies) == len({reply["request_id"] for reply in replies})

    snapshot = json.loads(pipeline.run("monitor", "--once").stdout.decode().splitlines()[-1])
    assert snapshot["champion"] == registry.champion_id()
    assert {each["model_id"] for each in snapshot["models"] if each["rows"]} >= {*registry.ids()}
    first = next(reply["request_id"] for reply in replies if reply["model_id"] == 0)
    [audited] = pipeline.run("tools.audit", "--json", first).stdout.splitlines()
    [answer] = json.loads(audited)["answered"]
    assert (answer["result"], answer["where"]) == ("same", "the archive")
    for process in (predictor, trainer):
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0, process.log.read_text()
    refused = pipeline.run("tools.clean", code=1).stderr.decode()
    assert refused.startswith(f"Models are in {place}. To delete them: make clean YES=1")
    pipeline.run("tools.clean", "--yes")
    assert (registry.ids(), registry.champion_id()) == ([], None)
