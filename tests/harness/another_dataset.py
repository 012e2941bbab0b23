"""Runs code for another data set than the tests': DATASET is read when Python starts."""

import os
import subprocess
import sys

from utils.files import ROOT


def run_with(dataset: str, program: str, *arguments: object) -> str:
    """Run a program with this data set, and return what it prints; AssertionError if it fails."""
    ended = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"DATASET": dataset},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


# Prints the losses on the test rows as JSON. The rows to train on are those of initialize.py.
# Arguments: a folder for the data, and the number of evaluations.
LOSSES = """
import json, sys
from pathlib import Path

import lightgbm as lgb
from train.fit import fit_model
from train.held_out import Split
from train.rows import original_rows
from train.space import START
from utils.datasets import dataset

folder = Path(sys.argv[1])
dataset.prepare(folder)
original = original_rows(folder)
rows = original[~original.held_out(Split.of_first_model(original.frame))]
model = fit_model(
    rows.frame,
    rows.outcomes,
    model_id=0,
    hyper="hyperopt",
    max_evals=int(sys.argv[2]),
    known_points=[START],
    num_threads=1,  # other tests, and other programs, run beside it
)
plain = lgb.train(
    dataset.target.objective | {"verbosity": -1, "num_threads": 1},
    lgb.Dataset(model.features.transform(rows.frame), rows.outcomes),
)
test = dataset.read_test(folder)
frame, outcomes = dataset.checked(test, "read_test()")
scores = {
    "model": model.predict(frame),
    "plain LightGBM": plain.predict(model.features.transform(frame)),
    "always the same": dataset.target.constant(outcomes),
}
if (best := dataset.true_scores(test)) is not None:
    scores["best possible"] = best
print(json.dumps({n: dataset.target.losses(outcomes, s).mean() for n, s in scores.items()}))
"""

# Reads JSON objects, visitors, from a file, and sends each one's request and outcome through the
# wire format; prints how many.
WIRE = """
import json, sys
from pathlib import Path

from utils.datasets import dataset
from utils.messages import decode_outcome, decode_request, encode

visitors = json.loads(Path(sys.argv[1]).read_text())
for visitor in visitors:
    label = visitor[dataset.target.name]
    data = {name: value for name, value in visitor.items() if name != dataset.target.name}
    request = decode_request(encode({"request_id": "r", "data": data}))
    assert request.data == data and request.outcome is None, request
    known = decode_request(encode({"request_id": "r", "data": visitor}))
    assert known.outcome == dataset.target.outcome_of(label), known
    assert decode_outcome(encode({"request_id": "r", "outcome": label})) == ("r", known.outcome)
print(len(visitors))
"""
