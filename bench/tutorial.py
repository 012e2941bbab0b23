"""The tuning that the tutorial (jrzaurin/ml_pipelines) published: the baseline.

Its search space, three folds and patience, on today's LightGBM. As published it gives `lgb.cv` no
objective, so it tunes a regression and then fits a binary model with the best parameters.
`repaired` gives it the binary objective and drops `is_unbalance`, which the published one has in
the tuning (where it has no effect without an objective) and not in the fit.
"""

import lightgbm as lgb
import numpy as np
from hyperopt import Trials, fmin, hp, tpe

SPACE = {
    "learning_rate": hp.uniform("learning_rate", 0.01, 0.2),
    "num_boost_round": hp.quniform("num_boost_round", 50, 500, 20),
    "num_leaves": hp.quniform("num_leaves", 31, 255, 4),
    "min_child_weight": hp.uniform("min_child_weight", 0.1, 10),
    "colsample_bytree": hp.uniform("colsample_bytree", 0.5, 1.0),
    "subsample": hp.uniform("subsample", 0.5, 1.0),
    "reg_alpha": hp.uniform("reg_alpha", 0.01, 0.1),
    "reg_lambda": hp.uniform("reg_lambda", 0.01, 0.1),
}


def retrain(
    dataset: lgb.Dataset, *, max_evals: int, repaired: bool, num_threads: int, seed: int
) -> lgb.Booster:
    """Return the booster that the tutorial's procedure makes of a Dataset."""
    objective = {"objective": "binary"} if repaired else {"is_unbalance": True}
    fixed = {"verbosity": -1, "seed": 1, "num_threads": num_threads}
    rounds: list[int] = []

    def loss(point: dict) -> float:
        point = _with_integers(point)
        result = lgb.cv(
            {**fixed, **objective, **point},
            dataset,
            num_boost_round=point["num_boost_round"],
            metrics="binary_logloss",
            nfold=3,
            stratified=False,
            callbacks=[lgb.early_stopping(20, verbose=False)],
        )["valid binary_logloss-mean"]
        rounds.append(len(result))
        return round(result[-1], 4)

    trials = Trials()
    best = fmin(
        loss, SPACE, algo=tpe.suggest, max_evals=max_evals, trials=trials,
        rstate=np.random.default_rng(seed), verbose=False,
    )  # fmt: skip
    best["num_boost_round"] = rounds[trials.best_trial["tid"]]
    return lgb.train({**fixed, "objective": "binary", **_with_integers(best)}, dataset)


def _with_integers(point: dict) -> dict:
    return point | {name: int(point[name]) for name in ("num_boost_round", "num_leaves")}
