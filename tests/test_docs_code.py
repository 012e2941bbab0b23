"""Code and output on the pages: it is Python, it is in the scripts, it runs, and prints that."""

import ast
import json
import re
import subprocess
import sys

import pytest

from tests.harness.pages import (
    blocks,
    is_like,
    not_printed,
    pages,
    shown_in_readme,
)
from tests.harness.pipeline import Pipeline
from tests.test_summary import add_reply, add_request, rows
from tools.summary import Summary
from train.comparison import Comparison
from utils.files import ROOT
from utils.messages import decode_control, decode_outcome

README = pages()["README.md"]
WALKTHROUGH = README.partition("## Walkthrough")[2].partition("\n## ")[0]
STEPS = ["1a", "1b", "2", "3", "4", "5", "6"]
# A step's number, what it says, and the lines of code that do it.
STEP = re.compile(r"^\*\*(\d[ab]?)\. (.*?)^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILES = re.compile(r"`([\w/]+\.py)`")
CLIENT = next(block for block in blocks("README.md", "python") if "KafkaConsumer" in block)


def python_blocks() -> list:
    """Return every Python block but those of the walkthrough, which are lines of scripts."""
    shown = {code for _, _, code in STEP.findall(WALKTHROUGH)}
    return [
        pytest.param(block, id=f"{page}-{number}")
        for page in pages()
        for number, block in enumerate(blocks(page, "python"))
        if block not in shown
    ]


@pytest.mark.parametrize("block", python_blocks())
def test_every_python_block_is_python_in_the_projects_format(block):
    ast.parse(block)
    command = [sys.executable, "-m", "ruff", "format", "--diff", "-"]
    shown = subprocess.run(command, cwd=ROOT, input=block, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stdout + shown.stderr


def steps() -> list:
    """Return each step's number, the scripts that it names, or else those before, and its lines."""
    found, scripts = [], []
    for number, words, code in STEP.findall(WALKTHROUGH):
        scripts = FILES.findall(words) or scripts
        found.append((number, scripts, code))
    return found


def test_the_walkthrough_has_all_steps():
    assert [number for number, _, _ in steps()] == STEPS
    [picture] = blocks("README.md", "mermaid")
    assert sorted(set(re.findall(r'-- "(\d[ab]?)', picture))) == STEPS


@pytest.mark.parametrize(("number", "scripts", "code"), steps(), ids=STEPS)
def test_the_lines_of_a_step_are_those_of_its_script(number, scripts, code):
    source = "\n".join((ROOT / script).read_text() for script in scripts)
    lines = iter([line.strip() for line in source.splitlines()])
    for line in code.splitlines():
        assert line.strip() in lines, line  # behind the one before: an iterator goes on there


@pytest.mark.parametrize("script", ["predictor.py", "sample_app.py", "trainer.py"])
def test_a_script_names_the_steps_of_the_walkthrough_that_it_does(script):
    named = set(re.findall(r"\(step ([\dab]+)\)|\((6)\)", (ROOT / script).read_text()))
    assert {first or second for first, second in named} <= set(STEPS)


def test_the_data_set_of_the_readme_is_that_of_the_project():
    [block] = [block for block in blocks("README.md", "python") if "(Dataset)" in block]
    source = (ROOT / "utils" / "datasets" / "diabetes.py").read_text()
    place, source = 0, without_spaces(re.sub(r"^ *#.*$", "", source, flags=re.MULTILINE))
    for part in without_spaces(block).split("..."):  # these stand for what is left out
        place = source.find(part, place)
        assert place >= 0, part


def without_spaces(code: str) -> str:
    return re.sub(r"\s", "", code)


def printed_after(code: str) -> str:
    """Return the output that the README shows after a text."""
    return re.search(r"^```text\n(.*?)^```", README.split(code, 1)[1], re.MULTILINE | re.DOTALL)[1]


def run_block(pipeline: Pipeline, code: str, topic: str) -> str:
    """Run a page's program on the pipeline's Kafka and this topic; return what it prints."""
    code = code.replace("localhost:9092", pipeline.host)
    code = code.replace(f'"{topic}"', f'"{pipeline.prefix}{topic}"')
    assert pipeline.prefix in code
    assert pipeline.host in code
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_client_runs_and_the_answers_are_counted(pipeline):
    pipeline.predictor()
    documented = re.search(r"{'request_id': '...'.*?}", README)[0]
    printed = run_block(pipeline, CLIENT, "app_messages").strip()
    request_id = ast.literal_eval(printed)["request_id"]
    assert is_like(documented, printed.replace(request_id, "...")), printed

    command = "python -m examples.count_answers"
    [documented] = printed_after(command).splitlines()
    counted = pipeline.run("examples.count_answers").stdout.decode().strip()
    assert counted == re.sub(r"^\d+", "1", documented)


def test_the_program_that_reports_outcomes_reports_them(pipeline):
    pipeline.create_topic("outcomes_topic")
    [code] = blocks("docs/messages.md", "python")
    run_block(pipeline, code, "outcomes_topic")
    found = [decode_outcome(json.dumps(m).encode()) for m in pipeline.messages("outcomes_topic")]
    assert found == [("my-1", 1.0), ("my-2", 0.0)]


def test_the_first_model_is_announced_as_the_readme_shows(first_model):
    documented = printed_after("    python initialize.py\n").splitlines()
    printed = re.sub(
        r"in \S*/models/:", "in models/:", (first_model / "initialize.log").read_text()
    )
    assert not_printed(documented, printed) == []


def test_the_summary_has_the_lines_that_the_readme_shows():
    summary = Summary()
    for number in range(200):
        add_request(summary, f"{number}", income_bracket="<=50K")
        add_reply(summary, f"{number}", probability=0.2, model_id=number // 100)
    for _ in range(8):
        summary.add_control_message(decode_control(b'{"training_completed": true, "model_id": 1}'))
    printed = "\n".join(f"│ {name} │ {text} │" for name, text in rows(summary).items())
    [documented] = [block for block in blocks("README.md", "text") if "trainings" in block]
    assert not_printed(documented.splitlines(), printed) == []


def test_a_new_champion_is_announced_as_the_readme_shows():
    _, documented = shown_in_readme("trainer.1")
    found = Comparison(other=0, difference=0.0004, low=-0.0011, high=0.0024, mean=0.0004, cost=1.0)
    assert is_like(documented, f"Model 1 is the champion: {found} on 2,000 held-out rows.")
    source = (ROOT / "trainer.py").read_text()
    assert 'say(f"Model {model_id} is the champion: {card.why}."' in source


def test_no_output_of_the_readme_is_unchecked():
    lines = "".join(blocks("README.md", "text")).splitlines()
    checked = "".join(map(printed_after, ("python initialize.py\n", "examples.count_answers\n")))
    [summary] = [block for block in blocks("README.md", "text") if "trainings" in block]
    rest = set(lines) - set((checked + summary).splitlines()) - {"…"}
    # Those of a demo: tests/test_pipeline.py, test_sample_app.py and the test above.
    programs = re.compile(r"\d\d:\d\d:\d\d (predictor|trainer|sample_app)\.1 +\|")
    assert [line for line in rest if not programs.match(line)] == []
