"""What a prediction costs: the nodes of a model's trees that a row passes, and the time it takes.

A predictor spends about as much time in its model as in all its other work, so a model's cost is
compared like its loss. Decisions are made by the number of nodes, which is the same on every
machine and follows the time (docs/tuning.md shows it); people are shown the time.
"""

import time
from typing import TYPE_CHECKING

import numpy as np

from utils.model_store.model import Model

if TYPE_CHECKING:
    import lightgbm as lgb
    import pandas as pd

TIMED_ROWS = 1_000  # different ones: a batch of few rows repeats its branches, which makes it cheap
REPEATS = 5


def cost_of(model: Model) -> float:
    """Return a model's decisions per row, as its card has them unless it is an old one."""
    return model.card.decisions_per_row or decisions_per_row(model.booster)


def decisions_per_row(booster: "lgb.Booster", first_round: int = 0) -> float:
    """Return how many nodes a row passes on average, in the trees from this round on together.

    The average is over the rows that each tree was fitted on: a tree knows how many reached each of
    its leaves.
    """
    trees = booster.dump_model(start_iteration=first_round)["tree_info"]
    return sum(_mean_depth(tree["tree_structure"]) for tree in trees)


def _mean_depth(root: dict) -> float:
    """Return the mean depth of a tree's leaves, weighted by their rows."""
    rows = decisions = 0
    nodes = [(root, 0)]
    while nodes:
        node, depth = nodes.pop()
        if "leaf_index" in node:
            rows += node["leaf_count"]
            decisions += node["leaf_count"] * depth
        elif "split_index" in node:
            nodes += [(node["left_child"], depth + 1), (node["right_child"], depth + 1)]
    return decisions / rows if rows else 0.0


def microseconds_per_row(model: Model, frame: "pd.DataFrame") -> float:
    """Return the CPU time that the booster takes for a row of this frame, with one thread.

    It is the least of a few measurements, as other processes can only add to it.
    """
    step = max(len(frame) // TIMED_ROWS, 1)
    matrix = model.features.transform(frame[::step][:TIMED_ROWS])
    taken = []
    for _ in range(REPEATS):
        began = time.thread_time()
        model.booster.predict(matrix, num_threads=1)
        taken.append(time.thread_time() - began)
    return float(np.min(taken)) / len(matrix) * 1e6
