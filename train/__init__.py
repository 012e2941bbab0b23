"""Training: the store of observations, tuning, fitting, judging.

Optimizers share one interface, `LGBOptimizer`; `--hyper` chooses between them.
"""

import os
from importlib import import_module
from importlib.util import find_spec

# OpenMP threads that wait for each other spin by default, and LightGBM's wait thousands of times a
# second. When another process needs a core, that makes training up to ten times slower. LightGBM
# reads this variable once, when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# --hyper -> the module of its LGBOptimizer, which is imported when it is needed: it takes a second.
OPTIMIZERS = {"hyperopt": "train.train_hyperopt", "optuna": "train.train_optuna"}
REPLACED = {"hyperparameterhunter": "it needs Python 3.7 or older; use --hyper optuna instead"}


def optimizer_class(name: str) -> type:
    """Return the `LGBOptimizer` class for `--hyper name`; ValueError if there is none."""
    check_name(name)
    return import_module(OPTIMIZERS[name]).LGBOptimizer


def check_name(name: str) -> None:
    """Raise ValueError if `--hyper name` is unknown; the text lists the known names."""
    if name in REPLACED:
        raise ValueError(f"--hyper {name}: {REPLACED[name]}")
    if name not in OPTIMIZERS:
        raise ValueError(f"--hyper {name!r} is unknown; known: {', '.join(OPTIMIZERS)}")


def check_spark(url: str, hyper: str) -> None:
    """Raise ValueError with one sentence if `--spark url` can't be used."""
    if hyper != "hyperopt":
        raise ValueError(f"--spark: it is for --hyper hyperopt, not for {hyper}")
    if not url.startswith(("local", "spark://", "yarn", "k8s://")):
        raise ValueError(f"--spark: expected local[2] or spark://host:port, got {url[:80]!r}")
    if find_spec("pyspark") is None:
        raise ValueError("--spark: it needs pyspark: pip install -r requirements-spark.txt")
