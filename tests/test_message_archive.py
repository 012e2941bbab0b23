"""The archive of messages: all of them once, found again, within its limits, whatever happens."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from monitoring.audit import message_archive
from monitoring.audit.kept_messages import KeptMessages
from monitoring.audit.message_archive import NOT_DECODED, MessageArchive
from monitoring.audit.message_blocks import Message, pack, unpack
from monitoring.audit.message_runs import BLOCK, Run
from monitoring.figures.decoding import decode
from tests.harness.pipeline import wait_until
from tests.test_observer import DATA
from tests.test_reader import create_again
from utils.files import ROOT
from utils.kafka_client.reader import Polled
from utils.kafka_client.records import Position, Unreadable
from utils.settings import settings

PLACE = TopicPartition("app_messages", 0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.db"


def record(offset: int, value, timestamp: int = 1_700_000_000_000) -> ConsumerRecord:
    known = {"topic": PLACE.topic, "partition": 0, "offset": offset, "timestamp": timestamp}
    return ConsumerRecord(**dict.fromkeys(ConsumerRecord._fields) | known | {"value": value})


def request(request_id: str, text: str = "") -> bytes:
    return json.dumps({"request_id": request_id, "data": {"text": text}}).encode()


def polled(values: list, first: int = 0, topic_id: str = "a") -> Polled:
    records = [record(first + number, value) for number, value in enumerate(values)]
    return Polled({PLACE: records}, {PLACE: Position(first + len(values), 0, topic_id)})


def kept(path) -> list[Message]:
    found = KeptMessages(path)
    messages = list(found.between(0, 2**62))
    found.close()
    return messages


def number_kept(path) -> int:
    try:
        return len(kept(path))
    except OSError:  # the file is not there yet, or has no tables yet
        return 0


def found(path, *request_ids: str) -> list[Message]:
    messages = KeptMessages(path)
    each = list(messages.find(set(request_ids)))
    messages.close()
    return each


def limit(monkeypatch, **limits) -> None:
    changed = settings.model_copy(update=limits)
    monkeypatch.setattr(message_archive, "settings", changed)


def test_messages_come_back_byte_for_byte():
    messages = [
        Message("app_messages", 0, 5, 1_700_000_000_000, request("a")),
        Message("app_messages", 3, 2**60, -1, None),
        Message("outcomes_topic", 0, 0, 2**62, b"\x00\xff"),
        Message("app_messages", 0, 6, 0, b""),
    ]
    runs = [Run(*m[:2], *([each] for each in m[2:]), [None]) for m in messages]
    assert list(unpack(pack(runs))) == messages


@pytest.mark.parametrize("sizes", [[10, 20, 5], [BLOCK, 1], [BLOCK * 2 + 7], [700] * 9])
def test_all_messages_of_a_request_are_found_however_they_came(path, sizes):
    archive, first = MessageArchive(path), 0
    for size in sizes:
        archive.add(polled([request(f"r{first + each}") for each in range(size)], first))
        archive.add(polled([request(f"r{first + each}") for each in range(size)], first))  # again
        first += size
    archive.add(polled([b'{"request_id": "r3", "prediction": 1}'], first))
    archive.close()
    assert [message.offset for message in kept(path)] == list(range(first + 1))
    assert [message.offset for message in found(path, "r3")] == [3, first]
    assert {m.offset for m in found(path, *(f"r{each}" for each in range(first)))} == {
        *range(first + 1)
    }
    assert not found(path, "r")


ODD = [
    None,
    Unreadable("why"),
    b"",
    b"\xff\xfe",
    b"[1]",
    b"[" * 100_000,
    b'{"request_id": 7, "data": {}}',
    b'{"request_id": "nan", "data": {"x": NaN}}',
    b'{"request_id": "large", "data": {"x": 1e999}}',
    b'{"request_id": "\\ud800", "data": {}}',
    '{"request_id": "Zoë \\u0000", "data": {}}'.encode(),
    b'{"request_id": "twice", "request_id": "last", "data": {}}',
]


def test_odd_messages_are_kept_and_found_by_their_id(path):
    archive = MessageArchive(path)
    archive.add(polled(ODD))
    archive.add(polled([request("x")] * BLOCK, len(ODD)))
    archive.close()
    values = [None if isinstance(value, Unreadable) else value for value in ODD]
    assert [message.value for message in kept(path)][: len(ODD)] == values
    for request_id, offset in (("nan", 7), ("large", 8), ("Zoë \0", 10), ("last", 11)):
        assert [message.offset for message in found(path, request_id)] == [offset]
    assert not found(path, "twice")


def test_what_is_decoded_already_gets_the_same_index(tmp_path):
    data = json.dumps(DATA)
    some = polled(
        [
            *ODD,
            f'{{"request_id": "valid", "data": {data}}}'.encode(),
            f'{{"request_id": "both", "data": {data}, "prediction": 1}}'.encode(),
            f'{{"request_id": "{"i" * 300}", "data": {data}}}'.encode(),
            b'{"request_id": "answered", "prediction": 1, "probability": 0.5, "model_id": 3}',
            b'{"request_id": "plain", "prediction": 0}',
            b'{"request_id": "refused", "error": "why"}',
            b'{"request_id": "nothing"}',
            *[request("x")] * BLOCK,
        ]
    )
    blocks = []
    for name, decoded in (("a.db", NOT_DECODED), ("b.db", decode(some.records, 2e9))):
        archive = MessageArchive(tmp_path / name)
        archive.add(some, decoded)
        archive.close()
        with closing(sqlite3.connect(tmp_path / name)) as database:
            sql = "SELECT requests, hashes, content FROM blocks"
            blocks.append(database.execute(sql).fetchall())
    assert blocks[0] == blocks[1]
    assert blocks[0]


def test_a_topic_that_was_created_again_begins_anew(path):
    archive = MessageArchive(path)
    archive.add(polled([request("old")] * 50))
    archive.add(polled([request("new")] * 30, topic_id="b"))
    archive.add(polled([request("new")] * 5, first=28, topic_id="b"))
    archive.add(polled([request("new")] * 9, first=30, topic_id=""))  # the id is not known
    assert (len(found(path, "old")), len(found(path, "new"))) == (50, 39)
    archive.close()


def test_the_newest_requests_are_kept(path, monkeypatch):
    limit(monkeypatch, audit_requests=10_000)
    archive = MessageArchive(path)
    for first in range(0, 40_000, BLOCK):
        archive.add(polled([request(f"r{first + each}") for each in range(BLOCK)], first))
    archive._clean_up_at = 0
    archive.add(Polled({}, {}))
    offsets = [message.offset for message in kept(path)]
    assert offsets == list(range(28_000, 40_000))
    limit(monkeypatch, audit_days=1e-9)
    archive._clean_up_at = 0
    archive.add(Polled({}, {}))
    assert kept(path) == []
    archive.close()
    assert archive.notes() == []


def test_whatever_is_sent_the_file_has_a_limit(path, monkeypatch):
    limit(monkeypatch, audit_requests=10_000)  # 10 MB
    archive = MessageArchive(path)
    for first in range(30):
        noise = b'{"request_id": "a", "prediction": "%s"}' % os.urandom(1_000_000).hex().encode()
        archive.add(polled([noise], first))
        assert sum(file.stat().st_size for file in path.parent.glob("audit.db*")) < 35_000_000
    archive.close()
    assert path.stat().st_size < 20_000_000
    assert len(kept(path)) >= 5


def test_a_full_disk_has_room_again_when_old_messages_are_deleted(path, monkeypatch):
    archive = MessageArchive(path)
    noise = [request("old", os.urandom(99).hex()) for _ in range(BLOCK)]
    archive.add(polled(noise))
    pages = archive._database.execute("PRAGMA page_count").fetchone()[0]
    archive._database.execute(f"PRAGMA max_page_count = {pages}")
    limit(monkeypatch, audit_days=1e-9)
    archive._clean_up_at = 0
    archive.add(polled(noise, BLOCK))
    archive.close()
    assert (archive.missed, len(kept(path))) == (0, BLOCK)


def test_after_make_clean_a_new_file_begins(path):
    archive = MessageArchive(path)
    archive.add(polled([request("old")] * 5))
    for file in path.parent.glob("audit.db*"):
        file.unlink()
    archive.add(polled([request("new")] * 5))
    archive.close()
    assert [message.value for message in kept(path)] == [request("new")] * 5


def test_dead_letters_are_not_kept_as_they_were_messages_before(path):
    letters = TopicPartition("dead_letter_topic", 0)
    archive = MessageArchive(path)
    archive.add(Polled({letters: [record(0, request("a"))], PLACE: [record(0, b"{}")]}, {}))
    archive.close()
    assert [message.value for message in kept(path)] == [b"{}"]


@pytest.mark.parametrize(("read_next", "is_gap"), [(0, 0), (1, 0), (2, 1)])
def test_what_was_missed_before_a_kill_is_a_gap(path, read_next, is_gap):
    archive = MessageArchive(path)
    archive.add(polled([request("a")]))
    archive._retry_at = float("inf")  # the disk is full
    archive.add(polled([request("b")], 1))
    for _ in range(2):  # killed before it has written the gap, too
        archive = MessageArchive(path)
        archive.go_on({PLACE: Position(read_next, 0, "a"), TopicPartition("new", 0): Position(9)})
    archive.add(polled([request("c")], read_next))
    archive.close()
    reading = KeptMessages(path)
    assert reading.positions() == ({} if is_gap else {PLACE: ("a", max(read_next + 1, 1))})
    reading.close()


def test_without_a_number_of_requests_nothing_is_written(path, monkeypatch):
    limit(monkeypatch, audit_requests=0)
    archive = MessageArchive(path)
    archive.add(polled([request("a")]))
    archive.close()
    assert not path.exists()
    limit(monkeypatch)
    archive.add(polled([request("a")] * BLOCK))
    archive.add(polled([request("a")], BLOCK))
    archive.close()
    limit(monkeypatch, audit_requests=0)
    archive = MessageArchive(path)
    archive.add(polled([request("a")], BLOCK + 1))
    archive.close()
    reading = KeptMessages(path)
    assert (kept(path), reading.positions()) == ([], {})
    limit(monkeypatch)
    archive = MessageArchive(path)
    archive.add(polled([request("a")], BLOCK + 2))  # the one before it is missing
    archive.close()
    assert (len(kept(path)), reading.positions()) == (1, {})
    reading.close()


def test_where_kafka_lost_the_end_of_a_log_its_new_records_are_kept(path):
    archive = MessageArchive(path)
    archive.add(polled([request("old")] * 50))
    archive.add(Polled({}, {PLACE: Position(30, 0, "a")}))  # as Reader reports it
    archive.add(polled([request("new")] * 5, first=30))
    archive.close()
    assert [message.offset for message in found(path, "new")] == [*range(30, 35)]


def test_a_disk_that_is_full_is_said_once_and_stops_nothing(path, capsys):
    archive = MessageArchive(path)
    archive.add(polled([request("a")]))
    pages = archive._database.execute("PRAGMA page_count").fetchone()[0]
    archive._database.execute(f"PRAGMA max_page_count = {pages}")
    for first in (1, 1 + BLOCK):
        noise = [request(f"n{each}", os.urandom(99).hex()) for each in range(BLOCK)]
        archive.add(polled(noise, first))
    assert capsys.readouterr().out.count("database or disk is full") == 1
    [note] = archive.notes()
    assert note.startswith("8,000 messages are not in the archive for audits: database or disk")
    archive._retry_at = 0  # the connection is a new one, which has no limit
    archive.add(polled([request("b")], 1 + 2 * BLOCK))
    assert "can be written again: 8,000 messages are not in it" in capsys.readouterr().out
    assert archive.notes() == []
    assert [message.offset for message in kept(path)] == [0, 8_001]
    archive.close()


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\0" + b"\xff" * 5_000])
def test_a_damaged_file_is_said_once_and_stops_nothing(path, content, capsys):
    path.write_bytes(content)
    archive = MessageArchive(path)
    archive.add(polled([request("a")]))
    archive._retry_at = 0
    archive.add(polled([request("b")], 1))
    said = capsys.readouterr().out
    assert said.count("Messages are not kept for audits until") == 1
    assert "audit.db.damaged now: a new one begins." in said
    archive.close()
    assert path.with_name("audit.db.damaged").read_bytes() == content
    assert [message.offset for message in kept(path)] == [1]


def test_a_file_that_is_damaged_later_is_replaced(path):
    archive = MessageArchive(path)
    archive.add(polled([request("a")] * BLOCK))
    archive.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)
    for first in range(BLOCK, 4 * BLOCK, BLOCK):
        archive._retry_at = 0
        archive.add(polled([request("b")] * BLOCK, first))
    archive.close()
    assert kept(path)[-1].offset == 4 * BLOCK - 1
    assert path.with_name("audit.db.damaged").exists()


WRITER = """
import sys
from pathlib import Path
from monitoring.audit.message_archive import MessageArchive
from utils.kafka_client.reader import Reader

archive, reader = MessageArchive(Path(sys.argv[1])), Reader({}, *sys.argv[2:])
print("reads", flush=True)
while True:
    archive.add(reader.poll())
"""


@pytest.mark.slow
def test_killed_five_times_while_it_reads_from_kafka_it_has_every_message_once(pipeline, path):
    """And after the topic was created again, with the same offsets."""
    pipeline.create_topic("numbers", partitions=3)
    topic, sent = f"{pipeline.prefix}numbers", 0

    def send(number: int) -> None:
        nonlocal sent
        for each in range(sent, sent + number):
            pipeline.send(request(f"r{each}"), "numbers", partition=each % 3)
        pipeline.producer.flush()
        sent += number

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", WRITER, path, topic],
            cwd=ROOT,
            env=os.environ | pipeline.environment,
            stdout=subprocess.PIPE,
        )

    for _ in range(5):
        writer, before = start(), sent
        send(3_000)
        wait_until(lambda least=before: number_kept(path) > least, what="messages")
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    writer = start()
    wait_until(lambda: number_kept(path) == sent)
    writer.kill()
    writer.communicate()
    create_again(pipeline, "numbers", partitions=3)
    writer = start()
    send(1_000)
    wait_until(lambda: len(found(path, *(f"r{each}" for each in range(15_000, 16_000)))) == 1_000)
    writer.kill()
    writer.communicate()
    ids = [json.loads(message.value)["request_id"] for message in kept(path)]
    assert sorted(ids) == sorted(f"r{each}" for each in range(16_000))


def test_a_reader_does_not_miss_messages_that_become_a_block(path):
    archive = MessageArchive(path)
    archive.add(polled([request("a")] * BLOCK))
    archive.add(polled([request("a")] * 10, BLOCK))
    reading = KeptMessages(path)
    search = reading.find({"a"})
    assert next(search).offset == 0
    archive.add(polled([request("b")] * BLOCK, BLOCK + 10))
    assert len(list(search)) == BLOCK + 9
    assert len(list(reading.find({"a", "b"}))) == 2 * BLOCK + 10  # what came since then, too
    reading.close()
    archive.close()


@pytest.mark.parametrize("damage", ["UPDATE blocks SET content = x'00'", "DROP TABLE tail"])
def test_damage_is_one_sentence_for_who_reads(path, damage):
    archive = MessageArchive(path)
    archive.add(polled([request("a")] * BLOCK))
    archive._database.execute(damage)
    archive.close()
    with pytest.raises(OSError, match=r"audit\.db can't be read: "):
        found(path, "a")
