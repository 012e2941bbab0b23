"""What a prediction costs: train/cost.py."""

import lightgbm as lgb
import numpy as np
import pytest

from train.cost import decisions_per_row


def depths(booster: lgb.Booster) -> list[dict[int, int]]:
    """Return for each tree the depth of each leaf, from LightGBM's own table of nodes."""
    found: list[dict[int, int]] = [{} for _ in range(booster.num_trees())]
    for node in booster.trees_to_dataframe().itertuples():
        if "-L" in node.node_index:
            leaf = int(node.node_index.rpartition("-L")[2])
            found[node.tree_index][leaf] = node.node_depth - 1
    return found


@pytest.mark.parametrize("leaves", [2, 15])
def test_decisions_are_counted_as_rows_pass_them(leaves):
    rng = np.random.default_rng(1)
    X = rng.random((2_000, 4))
    y = (X.sum(axis=1) + rng.normal(size=2_000) > 2).astype(float)
    parameters = {"objective": "binary", "num_leaves": leaves, "verbosity": -1}
    booster = lgb.train(parameters, lgb.Dataset(X, y), 20)
    depth = depths(booster)
    passed = sum(
        depth[tree][leaf]
        for row in booster.predict(X, pred_leaf=True).astype(int).tolist()
        for tree, leaf in enumerate(row)
    )
    assert decisions_per_row(booster) == pytest.approx(passed / len(X))


def test_a_tree_without_a_split_decides_nothing():
    X, y = np.zeros((100, 1)), np.arange(100) % 2
    booster = lgb.train({"objective": "binary", "verbosity": -1}, lgb.Dataset(X, y), 3)
    assert decisions_per_row(booster) == 0
