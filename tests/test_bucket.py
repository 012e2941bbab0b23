"""Models in a real object store, behind a proxy that makes faults: whole or absent, one wins."""

import os
import threading
import time
from contextlib import closing, suppress
from itertools import count

import pytest

from tests.harness.object_store import Fault, FaultProxy
from tools import models
from train import recovery
from train.recovery import interrupted_training
from train.store.observations import Observations
from utils.model_store import pruning
from utils.model_store.archive import Archive
from utils.model_store.bucket import Bucket
from utils.model_store.card import Card, ModelError
from utils.model_store.pruning import remove_leftovers
from utils.model_store.registry import ChampionChanged, Registry
from utils.model_store.storage import CHAMPION, StorageAway, open_storage
from utils.settings import settings

CONTENT = b"a model " * 10_000


@pytest.fixture(scope="module")
def proxy(object_store):
    proxy = FaultProxy(object_store.address)
    yield proxy
    proxy.close()


@pytest.fixture
def place(object_store, proxy, monkeypatch) -> str:
    """The URL of an empty prefix, which is reached through the proxy."""
    for name, value in proxy.environment.items():
        monkeypatch.setenv(name, value)
    yield f"s3://{object_store.bucket}/{os.urandom(4).hex()}"
    proxy.faults.clear()
    proxy.is_away = False


@pytest.fixture
def registry(place) -> Registry:
    return Registry(place)


def card(model_id: int, **fields) -> Card:
    known = {"rows": 1, "hyper": "x", "evaluations": 1, "experiment": "", "seed": 0}
    return Card(model_id=model_id, parameters={}, **known | fields)


def publish(registry: Registry, *model_ids: int, **fields) -> None:
    for model_id in model_ids:
        registry.publish(card(model_id, **fields), CONTENT + bytes([model_id]))


def contents(registry: Registry) -> dict[int, bytes]:
    return {each: registry.content(registry.card(each)) for each in registry.ids()}


def test_what_is_written_comes_back(registry):
    assert registry.exists() is False
    assert (registry.ids(), registry.champion_id(), registry.champion_since()) == ([], None, None)
    with pytest.raises(ModelError, match="^model 3: model_3.json is missing"):
        registry.card(3)
    before = time.time()
    publish(registry, 3, 12)
    registry.promote(3)
    assert contents(registry) == {3: CONTENT + b"\3", 12: CONTENT + b"\x0c"}
    assert (registry.exists(), registry.champion_id(), registry.newest_id()) == (True, 3, 12)
    assert before <= registry.champion_since() <= time.time()
    registry.storage.delete(registry.storage.content_name(registry.card(3)))
    with pytest.raises(ModelError, match="^model 3: model_3-[0-9a-f]{64}.p is missing"):
        registry.content(registry.card(3))


def test_a_damaged_object_is_refused(registry):
    publish(registry, 0, 1)
    registry.storage.write(registry.storage.content_name(registry.card(0)), CONTENT[:-1])
    with pytest.raises(ModelError, match="does not match the digest in its card"):
        registry.content(registry.card(0))
    registry.storage.write("model_1.json", b"{")
    with pytest.raises(ModelError, match="^model 1: model_1.json can't be read"):
        registry.card(1)
    for damage in (b"", b"[]", b"[" * 100_000, b'{"model_id": -1}'):
        registry.storage.write(CHAMPION, damage)
        assert registry.champion_id() is None
        registry.promote(0)
        assert registry.champion_id() == 0


def test_a_publication_may_be_repeated_but_not_by_another_trainer(registry):
    publish(registry, 1)
    publish(registry, 1)
    registry.write_card(changed := registry.card(1))
    with pytest.raises(ModelError, match="already, and another one: is more than one trainer"):
        registry.publish(card(1), b"other")
    assert contents(registry) == {1: CONTENT + b"\1"}
    assert registry.card(1) == changed


def race(*writers) -> list[BaseException | None]:
    """Let functions run at the same moment; return what each raised."""
    barrier, ended = threading.Barrier(len(writers)), [None] * len(writers)

    def run(place: int) -> None:
        barrier.wait()
        try:
            writers[place]()
        except Exception as error:
            ended[place] = error

    threads = [threading.Thread(target=run, args=[each]) for each in range(len(writers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


@pytest.mark.parametrize("rounds", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_of_two_writers_exactly_one_wins(place, rounds):
    one, other = Registry(place), Registry(place)
    seen = one.see()
    for number in range(rounds):
        pair = (one, 2 * number), (other, 2 * number + 1)
        writers = [lambda each=each, n=n, seen=seen: each.promote(n, seen) for each, n in pair]
        ended = race(*writers)
        assert {type(each) for each in ended} == {ChampionChanged, type(None)}, ended
        seen = one.see()
        assert seen.model_id == 2 * number + ended.index(None)


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_of_two_models_of_one_id_one_is_published_whole(place, rounds):
    one, other = Registry(place), Registry(place)
    for number in range(rounds):
        ended = race(
            lambda number=number: one.publish(card(number), CONTENT + b"one"),
            lambda number=number: other.publish(card(number), CONTENT + b"other"),
        )
        assert {type(each) for each in ended} == {ModelError, type(None)}, ended
        assert contents(one)[number] == CONTENT + (b"one", b"other")[ended.index(None)]


def test_a_pointer_that_comes_back_is_another_one(registry):
    publish(registry, 3, 4)
    registry.promote(3)
    seen = registry.see()
    registry.promote(4)
    registry.promote(3)
    with pytest.raises(ChampionChanged):
        registry.promote(4, seen)


def test_a_trainer_that_was_succeeded_can_not_promote(place):
    first, successor = Registry(place), Registry(place)
    publish(first, 0, 1)
    first.promote(0)
    with first.locked() as seen:
        successor.take_over()
        with pytest.raises(ChampionChanged):
            first.promote(1, seen)
    assert successor.champion_id() == 0


def test_what_is_being_deleted_can_not_be_promoted(place, monkeypatch):
    """A promotion by hand at the moment at which prune() has chosen the same model."""
    trainer, person = Registry(place), Registry(place)
    publish(trainer, 0, 1, 2, 3)
    trainer.promote(3)
    seen = person.see()
    delete, refused = Bucket.delete, []

    def deleting(storage: Bucket, name: str) -> None:
        for known in (seen, None):
            with pytest.raises((ChampionChanged, ModelError)) as raised:
                person.promote(1, known)
            refused.append(str(raised.value))
        delete(storage, name)

    with monkeypatch.context() as patched:
        patched.setattr(Bucket, "delete", deleting)
        assert trainer.prune(keep=1) == [0, 1]
    assert {*refused} == {"The champion was changed at the same moment", "model 1 is being deleted"}
    assert (trainer.ids(), trainer.champion_id()) == ([2, 3], 3)
    assert Archive(place).ids() == [0, 1]
    assert [Archive(place).content(each) for each in Archive(place).cards(1)] == [CONTENT + b"\1"]


def test_a_promotion_by_hand_while_a_prune_chooses_wins(place, monkeypatch, capsys):
    trainer, person = Registry(place), Registry(place)
    publish(trainer, 0, 1, 2, 3)
    trainer.promote(3)
    with monkeypatch.context() as patched:
        patched.setattr(pruning, "surplus", lambda *_: person.promote(1) or [0, 1])
        assert trainer.prune(keep=1) == []
    assert "Replaced models are deleted next time" in capsys.readouterr().out
    assert (trainer.ids(), trainer.champion_id()) == ([0, 1, 2, 3], 1)
    assert trainer.prune(keep=1) == [0, 2]


def test_a_model_that_another_trainer_is_deleting_is_rejected(registry):
    publish(registry, 2, 3, replaces=2, decision="promoted")
    registry.promote(2)
    assert recovery.decided(registry, 3, registry.see()).decision == "promoted"
    registry.note_deleting([3], registry.see())
    card = recovery.decided(registry, 3, registry.see())
    assert (card.decision, card.why) == ("rejected", "another trainer is deleting it")
    assert registry.card(3).decision == "promoted"


def test_what_is_newer_than_the_concluded_model_is_not_pruned(registry):
    publish(registry, 0, 1, 2, 3, 4)
    registry.promote(2)
    assert registry.prune(keep=0, up_to=2) == [0, 1]
    assert registry.prune(keep=0) == [3, 4]


class Killed(BaseException):
    """As by kill -9: nothing is cleaned up."""


CALLS = ("read", "read_marked", "write", "create", "swap", "list", "delete")


def work(registry: Registry) -> None:
    """What the trainer does with the models after a training, from whatever state is there."""
    registry.take_over()
    remove_leftovers(registry)
    with registry.locked() as seen:
        if seen.model_id != 3:
            publish(registry, 3, replaces=2, decision="promoted")
            registry.promote(3, seen)
        registry.prune(keep=1)


@pytest.mark.parametrize(
    ("error", "stride"),
    [
        (Killed, 44),
        pytest.param(Killed, 1, marks=pytest.mark.slow),
        pytest.param(StorageAway, 1, marks=pytest.mark.slow),
    ],
)
def test_killed_before_or_after_any_call_every_model_is_whole_and_one_is_champion(
    place, monkeypatch, error, stride
):
    def interrupted(registry: Registry, left: int) -> bool:
        """Do the work; True if it was ended by an error after `left` half steps."""
        steps = count()

        def counting(call):
            def counted(*arguments):
                for is_after in (False, True):
                    if next(steps) == left:
                        raise error
                    if not is_after:
                        result = call(*arguments)
                return result

            return counted

        with monkeypatch.context() as patched:
            for name in CALLS:
                patched.setattr(Bucket, name, counting(getattr(Bucket, name)))
            with suppress(error):
                work(registry)
        return next(steps) > left

    for left in count(stride // 2, stride):
        registry = Registry(f"{place}/{left}")
        publish(registry, 0, 1, 2)
        registry.promote(2)
        if not interrupted(registry, left):
            break
        assert registry.champion_id() in (2, 3), left
        assert contents(registry)[registry.champion_id()], left
        kept = {each.model_id for each in Archive(registry.place).cards()}
        assert {0, 1, 2} <= {*contents(registry), *kept}, left
        for each in Archive(registry.place).cards():
            Archive(registry.place).content(each)
        work(registry)  # the next start
        assert (registry.ids(), registry.champion_id()) == ([2, 3], 3), left
        assert sorted(Archive(registry.place).ids()) == [0, 1], left
    print(f"ended at {left} places")
    assert left > 60


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("half", "/model_3-"),
        ("lost", "/model_3.json"),
        ("lost", CHAMPION),
        *(
            pytest.param(kind, path, marks=pytest.mark.slow)
            for kind in ("503", "half", "lost", "slow")
            for path in ("/model_3-", "/model_3.json", CHAMPION, "archive/0-")
        ),
    ],
)
def test_a_fault_of_one_request_changes_nothing(registry, proxy, kind, path):
    publish(registry, 0, 1, 2)
    registry.promote(2)
    proxy.faults += [Fault(kind, "PUT", path)]
    work(registry)
    assert not proxy.faults
    assert (registry.ids(), registry.champion_id()) == ([2, 3], 3)
    assert contents(registry)[3] == CONTENT + b"\3"
    assert sorted(Archive(registry.place).ids()) == [0, 1]


def test_an_answer_that_is_cut_is_read_again_or_an_error(registry, proxy):
    publish(registry, 0)
    proxy.faults += [Fault("short", "GET", "/model_0-")]
    with suppress(StorageAway):
        assert contents(registry) == {0: CONTENT + b"\0"}
    assert contents(registry) == {0: CONTENT + b"\0"}
    assert not proxy.faults


def test_a_loader_whose_model_is_pruned_looks_at_the_pointer_again(registry, monkeypatch):
    from utils.model_store import model

    publish(registry, 0, 1)
    registry.promote(0)

    def load(registry: Registry, model_id: int) -> int:
        if registry.champion_id() == 0:  # meanwhile:
            registry.promote(1)
            registry.prune(keep=0)
        registry.card(model_id)
        return model_id

    monkeypatch.setattr(model, "load", load)
    assert model.load_champion(registry) == (1, [])


def test_an_upload_that_was_never_named_is_removed_when_it_is_old(registry, monkeypatch):
    publish(registry, 0)
    registry.storage.write(f"model_1-{'0' * 64}.p", b"left")
    remove_leftovers(registry)
    assert len(registry.storage.list()) == 3
    monkeypatch.setattr(Bucket, "leftover_age", 1e-9)
    remove_leftovers(registry)
    assert len(registry.storage.list()) == 2
    assert contents(registry) == {0: CONTENT + b"\0"}


def test_while_it_is_away_loops_go_on_with_what_they_know(registry, proxy, monkeypatch, capsys):
    monkeypatch.setattr(Bucket, "look_interval", 0.0)
    publish(registry, 0, 1)
    registry.promote(0)
    assert registry.glance() == 0
    proxy.is_away = True
    began = time.monotonic()
    assert registry.glance(at_once=True) == 0
    assert registry.glance(at_once=True) == 0
    for call in (
        registry.ids,
        registry.see,
        lambda: registry.card(0),
        lambda: publish(registry, 2),
    ):
        with pytest.raises(StorageAway, match=f"^{registry.place} can't be used: "):
            call()
    assert registry.prune(keep=0) == []
    print(f"eight calls took {time.monotonic() - began:.1f} s")
    proxy.is_away = False
    registry.promote(1)
    assert registry.glance(at_once=True) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "Going on with what is known" in line] == said[:1]
    assert f"{registry.place}/ answers again." in said


def test_a_start_waits_for_it_and_then_gives_up_in_one_sentence(place, proxy, monkeypatch, capsys):
    from utils.model_store import patience

    waiting = settings.model_copy(update={"broker_timeout": 0.2})
    monkeypatch.setattr(patience, "settings", waiting)
    proxy.is_away = True
    with pytest.raises(SystemExit) as ended:
        Registry(place).exists()
    assert str(ended.value).startswith(f"MODELS_DIR: {place} can't be used: ")
    assert str(ended.value).endswith("; waited 0.2 s (BROKER_TIMEOUT)")
    assert capsys.readouterr().out.count("Waiting for the models") == 1
    monkeypatch.setattr(patience, "settings", settings)
    threading.Timer(1, lambda: setattr(proxy, "is_away", False)).start()
    assert Registry(place).exists() is False


def test_a_trainer_that_starts_waits_for_it_too(registry, proxy, tmp_path):
    registry.publish(card(0), b"0")
    registry.promote(0)
    before = registry.see()
    proxy.is_away = True
    threading.Timer(1, lambda: setattr(proxy, "is_away", False)).start()
    with closing(Observations(tmp_path / "store.db")) as store:
        assert interrupted_training(store, registry) is None
    assert registry.see() != before  # what a former trainer has read is out of date


def test_after_a_promotion_by_hand_the_former_champion_is_not_announced(
    registry, proxy, tmp_path, monkeypatch
):
    announced = []
    monkeypatch.setattr(recovery, "announce", lambda _, model_id, **__: announced.append(model_id))
    publish(registry, 0, 1)
    registry.promote(0)
    assert registry.glance() == 0
    with closing(Observations(tmp_path / "store.db")) as store:
        Registry(registry.place).promote(1)  # by tools.models, which announces it
        store.note_announced(1)
        recovery.announce_the_champion(store, registry, None)
        assert announced == []
        store.note_announced(0)  # by anybody else
        proxy.is_away = True
        registry.glance(at_once=True)
        recovery.announce_the_champion(store, registry, None)
        assert announced == []
        proxy.is_away = False
        registry.glance(at_once=True)
        recovery.announce_the_champion(store, registry, None)
        assert (announced, store.counter("announced_model_id")) == ([1], 1)


def test_a_wrong_login_is_one_sentence_without_the_secret(place, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-secret")
    with pytest.raises(StorageAway) as raised:
        Registry(place).ids()
    assert "403" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "wrong-and-secret" not in str(raised.value)


def test_a_store_that_ignores_conditions_is_refused(place, monkeypatch):
    open_storage(place).prepare()
    assert open_storage(place).list() == {}
    monkeypatch.setattr(Bucket, "_put", lambda storage, *_: True)
    with pytest.raises(SystemExit, match="it ignores conditional writes"):
        open_storage(place).prepare()


def test_what_a_killed_check_left_is_removed(registry, monkeypatch):
    def kill(*_):
        raise Killed

    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr(Bucket, "swap", kill)
        registry.storage.prepare()
    assert len(registry.storage.list()) == 1
    monkeypatch.setattr(Bucket, "leftover_age", 1e-9)
    remove_leftovers(registry)
    assert registry.storage.list() == {}


def test_a_bucket_that_is_not_there_is_one_sentence(registry, proxy):
    for write in (lambda: registry.storage.write("x", b""), registry.storage.prepare):
        proxy.faults += [Fault("404", "PUT")]
        with pytest.raises(StorageAway, match="404 Not Found$"):
            write()


def test_without_obstore_it_says_what_to_install(place, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    with pytest.raises(SystemExit, match="needs obstore: pip install -r requirements-cluster.txt"):
        Bucket(place).list()


def test_all_models_of_a_prefix_can_be_deleted(registry):
    publish(registry, 0, 1, 2)
    registry.promote(2)
    registry.prune(keep=0)
    registry.storage.write("mine.txt", b"")
    other = Registry(f"{registry.place}-2")
    publish(other, 0)
    pruning.delete_all(registry)
    assert [*registry.storage.list()] == ["mine.txt"]
    assert Archive(registry.place).ids() == []
    assert other.ids() == [0]


def test_the_models_are_listed_and_shown(registry, capsys):
    publish(registry, 0, 1, 2)
    registry.promote(2)
    registry.prune(keep=0)
    models.show_list(registry)
    models.show(registry, 1)
    said = capsys.readouterr().out
    assert "2 *" in said
    assert '"model_id": 1' in said


@pytest.mark.parametrize("wrong", ["s3:8333", "localhost", "//host", "http://", "ftp://host"])
def test_an_endpoint_that_is_no_address_is_refused_in_one_sentence(monkeypatch, wrong):
    monkeypatch.setenv("AWS_ENDPOINT_URL", wrong)
    with pytest.raises(SystemExit) as ended:
        Registry("s3://bucket/models").ids()
    expected = f"expected http://host or https://host (it is {wrong!r})"
    assert ended.value.code == f"AWS_ENDPOINT_URL: {expected}"


def test_an_empty_endpoint_is_as_if_it_were_not_set(monkeypatch):
    given = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "nowhere"}
    nothing_leaves_this_machine = {"HTTPS_PROXY": "http://127.0.0.1:1"}
    for name, value in (given | nothing_leaves_this_machine | {"AWS_ENDPOINT_URL": ""}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageAway, match="https://s3.nowhere.amazonaws.com"):
        Registry("s3://bucket/models").ids()
