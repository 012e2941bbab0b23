"""The request/reply client in Go: each caller gets its own answer, an error, or a timeout."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.harness.pipeline import Pipeline, wait_until
from utils.files import ROOT

SOURCE = ROOT / "examples" / "go"


def go_version() -> tuple[int, ...]:
    """Return the version of the go command, (0,) if there is none."""
    if not shutil.which("go"):
        return (0,)
    shown = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, cwd="/")
    return tuple(map(int, re.findall(r"\d+", shown.stdout)))


NEEDED = tuple(
    map(int, re.search(r"^go ([\d.]+)$", (SOURCE / "go.mod").read_text(), re.M)[1].split("."))
)
pytestmark = [
    pytest.mark.skipif(go_version() < NEEDED, reason=f"needs Go {NEEDED}"),
    pytest.mark.slow,  # it builds a program
]


@pytest.fixture(scope="session")
def program(tmp_path_factory) -> Path:
    """The client, built from exactly the modules that go.sum names, without a C compiler."""
    program = tmp_path_factory.mktemp("go") / "predict"
    flags = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    subprocess.run(
        ["go", "build", "-ldflags=-s -w", "-o", str(program), "."],
        cwd=SOURCE,
        env=os.environ | flags,
        check=True,
    )
    return program


class GoClient:
    """The running client: lines go in, answers come out."""

    def __init__(self, pipeline: Pipeline, program: Path, timeout: str = "30s") -> None:
        self._process = subprocess.Popen(
            [program, "-timeout", timeout],
            env=os.environ | pipeline.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, *rows: object) -> None:
        """Ask for a prediction for each of these rows, all at once."""
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        self._process.stdin.write(b"".join(line + b"\n" for line in lines))
        self._process.stdin.flush()

    def answer(self) -> dict:
        """Return the next answer."""
        return json.loads(self._process.stdout.readline())

    def end(self) -> list[dict]:
        """Return the answers to all that was asked, and check that the client ends well."""
        output, _ = self._process.communicate(timeout=60)
        assert self._process.returncode == 0
        return [json.loads(line) for line in output.splitlines()]

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def client(pipeline, program):
    pipeline.create_topic("app_messages", partitions=2)
    clients = []

    def start(**options) -> GoClient:
        clients.append(GoClient(pipeline, program, **options))
        return clients[-1]

    yield start
    for each in clients:
        each.kill()


def test_200_at_once_get_their_own_answers(pipeline, client):
    pipeline.predictor()
    rows = pipeline.rows[:200]
    asking = client()
    asking.ask(*rows)
    answers = asking.end()
    assert sorted(each["line"] for each in answers) == list(range(200))
    messages = pipeline.messages("app_messages")
    sent = {each["request_id"]: each["data"] for each in messages if "data" in each}
    replies = {each["request_id"]: each for each in messages if "data" not in each}
    for each in answers:
        assert sent[each["request_id"]] == rows[each.pop("line")]
        assert each == replies[each["request_id"]]
    assert len({each["probability"] for each in answers}) > 100  # a mix-up would have shown


def test_an_invalid_request_gets_the_reason(pipeline, client):
    pipeline.predictor()
    asking = client()
    asking.ask(pipeline.rows[0] | {"age": "old"}, b"no JSON", pipeline.rows[0])
    answers = {each["line"]: each for each in asking.end()}
    assert answers[0]["error"] == "data.age: expected a number, got 'old'"
    assert answers[1]["error"] == "not valid JSON"
    assert answers[2]["prediction"] in (0, 1)


@pytest.mark.slow
def test_no_answer_is_a_timeout_and_a_late_one_is_given_to_nobody(pipeline, client):
    asking = client(timeout="3s")
    asking.ask(pipeline.rows[0])
    assert asking.answer() == {"line": 0, "error": "no answer: context deadline exceeded"}
    pipeline.predictor()
    pipeline.wait_for_replies(1)  # the late one
    asking.ask(pipeline.rows[7])
    answer = asking.answer()
    [request] = [m for m in pipeline.messages("app_messages") if m.get("data") == pipeline.rows[7]]
    assert answer["request_id"] == request["request_id"]


@pytest.mark.slow
def test_kafka_away_and_back(pipeline, client, broker):
    pipeline.predictor()
    pid = int((broker / "broker.pid").read_text())
    asking = client(timeout="2s")

    def answered() -> bool:
        asking.ask(pipeline.rows[0])
        return "prediction" in asking.answer()

    wait_until(answered)
    os.kill(pid, signal.SIGSTOP)
    try:
        asking.ask(pipeline.rows[0])
        assert "context deadline exceeded" in asking.answer()["error"]
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(answered)


@pytest.mark.slow
def test_a_missing_topic_ends_with_a_sentence(pipeline, program):
    ended = subprocess.run(
        [program, "-timeout", "5s"], env=os.environ | pipeline.environment, capture_output=True
    )
    assert ended.returncode == 1
    assert ended.stderr.decode().startswith(f"topic {pipeline.prefix}app_messages: UNKNOWN_TOPIC")
