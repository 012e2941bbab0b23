"""Every benchmark and every long run ends with its table: on sizes of seconds, for no figures."""

import os
import subprocess
import sys

import pytest

from utils.files import ROOT

SMALL = ["--rounds", "1", "--requests", "6000", "--seconds", "4"]
SMALL += ["--trainings", "1", "--evaluations", "1"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def run(module: str, *options: str) -> str:
    """Run a module to its end, exit code 0, and return what it prints on stdout."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *options],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        output, _ = process.communicate()
    finally:
        if process.poll() is None:  # the test's time is over
            process.terminate()
            process.wait(60)
    assert process.returncode == 0, output
    return output


def rows_of(table: str, output: str) -> list[list[str]]:
    """Return the cells of the rows below the table whose first heading this is."""
    lines = output.splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith(f"┃ {table} "))
    end = next(n for n, line in enumerate(lines[begin:], begin) if line.startswith("└"))
    rows = [line for line in lines[begin:end] if line.startswith("│")]
    return [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]


def performance(section: str, table: str) -> list[list[str]]:
    output = run("bench.performance", "--only", section, *SMALL)
    models = rows_of("models", output)
    assert [row[0] for row in models] == ["initialize.py's model", "champion after 1 trainings"]
    return rows_of(table, output)


def test_throughput():
    rows = performance("throughput", "throughput")
    assert sum(row[0] == "predictor.py" for row in rows) == 4
    assert all(float(row[4].replace(",", "")) > 0 for row in rows if row[4])


def test_split():
    rows = performance("split", "us of CPU a request")
    assert {"poll", "decode + validate", "transform", "predict", "send"} <= {row[0] for row in rows}


def test_latency():
    rows = performance("latency", "latency, ms")
    assert sum(row[1] == "initialize.py's model" for row in rows) == 8


def test_start():
    rows = performance("start", "start")
    first = "first answer, initialize.py's model"
    assert [row[0] for row in rows[-3:]] == [
        first,
        "first answer, champion after 1 trainings",
        f"{first}, in an object store",
    ]


def test_growth():
    rows = performance("growth", "us of CPU a request, without Kafka's client")
    assert rows[-1][0] == "initialize.py's model, requests of 10 kB"


def test_backlog():
    rows = performance("backlog", "backlog of 30,000 requests")
    assert len(rows) == 2


def test_retrain():
    output = run("bench.retrain", "--seeds", "1", "--evaluations", "1", "--rows", "40000")
    assert len(rows_of("way", output)) == 7
    assert len(rows_of("rows", output)) == 4


def test_tuning():
    output = run("bench.tuning", "--seeds", "1", "--evaluations", "3", "--first", "1")
    assert len(rows_of("s", output)) == 1
    assert len(rows_of("optimization", output)) == 4


def test_years(first_model, tmp_path):
    plot = tmp_path / "years.svg"
    output = run("bench.years", str(first_model), "--most", "10000", "--plot", str(plot))
    assert [row[0] for row in rows_of("observations", output)] == ["10,000"]
    assert plot.read_text().startswith("<svg")


def test_poison():
    output = run("bench.poison", "--trainings", "2")
    assert [row[0] for row in rows_of("training", output)] == ["1", "2"]


def test_generations(tmp_path):
    plot = tmp_path / "generations.svg"
    output = run("bench.generations", "--trainings", "2", "--evaluations", "1", "--out", str(plot))
    rows = [row for row in rows_of("generations", output) if any(row)]
    assert [row[:2] for row in rows] == [
        [figure, visitors]
        for figure in ("log loss", "us of CPU a row", "trees")
        for visitors in ("new", "repeated")
    ]
    assert "</svg>" in plot.read_text()


def test_drift():
    output = run("bench.drift", "--requests", "600")
    assert "600 requests, 600 answered" in output
    assert rows_of("requests with outcomes", output)


def test_chaos():
    output = run("tests.chaos.run", "--faults", "2", "--gap", "0.2", "1", "--rate", "100")
    assert "│ violations" in output


def test_soak():
    output = run("tests.chaos.soak", "--minutes", "0.5", "--warm-up", "10", "--rate", "100")
    assert rows_of("resident memory, MB", output)[0][0] == "predictor-0"


def test_hostile():
    output = run("tests.chaos.hostile", "--messages", "1000", "--requests", "100")
    assert all(row[-1] in ("yes", "") for row in rows_of("hostile input", output))


def test_quality():
    rows = rows_of("shop: log loss", run("bench.quality", "--only", "shop", "--seeds", "1"))
    assert [row[0] for row in rows[:2]] == ["initialize.py's model", "LightGBM with its defaults"]
    assert len(rows) == 7
    assert all(row[-1].endswith("%") for row in rows)


def test_telemetry():
    output = run("bench.telemetry", "--rounds", "1", "--requests", "6000", "--seconds", "4")
    assert len(rows_of("cost", output)) == 4
    assert rows_of("throughput", output)[0][0] == "requests/s"
    assert len(rows_of("latency at 200/s", output)) == 4


def test_capacity():
    output = run("bench.capacity", "--requests", "6000", "--rows", "40000")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines()]
    figures = {line[0]: line[1:] for line in lines if line and line[0] not in ("", "---")}
    assert len(figures["**brokers**"]) == 3
    measured = [name for name in figures if name.startswith("us of CPU")]
    assert all(float(figures[name][0]) > 0 for name in measured)


def test_workers(first_model):
    output = run("bench.workers", str(first_model), "--processes", "1", "2", "--trials", "4")
    assert [row[0] for row in rows_of("processes", output)] == ["1", "2"]
