"""Tuning and fitting: one `LGBOptimizer` interface, chosen with `--hyper`."""

import argparse
import math
import os
from importlib import import_module

from utils.script import command_line

# LightGBM's threads wait for each other thousands of times a second. Left to itself OpenMP waits
# spinning, and where another process needs one of the cores that made training up to ten times
# slower. It is read once, when LightGBM is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# The name given to --hyper -> the module that holds its LGBOptimizer. A module is imported only
# when it is asked for: the scripts that do not train need none.
OPTIMIZERS = {"hyperopt": "train.train_hyperopt", "optuna": "train.train_optuna"}
REPLACED = {
    "hyperparameterhunter": "it runs on no Python after 3.7; --hyper optuna has taken its place"
}


def optimizer_class(name: str) -> type:
    """Return the `LGBOptimizer` class that `--hyper name` stands for.

    ValueError for any other name.
    """
    check_name(name)
    return import_module(OPTIMIZERS[name]).LGBOptimizer


def check_name(name: str) -> None:
    """Raise ValueError, in one sentence that lists the known names, if `--hyper name` is none."""
    if name in REPLACED:
        raise ValueError(f"--hyper {name}: {REPLACED[name]}")
    if name not in OPTIMIZERS:
        raise ValueError(f"--hyper {name!r} is not known; there is: {', '.join(OPTIMIZERS)}")


def parse_arguments(
    description: str, max_evals: int, timeout: float, **flags: str
) -> argparse.Namespace:
    """Read how to tune, and flags, from the command line; a wrong value ends the program.

    max_evals, timeout (seconds) : the script's defaults; flags : name and help of each one.
    """
    parser = command_line(description)
    known = ", ".join(OPTIMIZERS)
    parser.add_argument("--hyper", default="hyperopt", help=f"what tunes the model: {known}")
    parser.add_argument(
        "--max-evals", type=int, default=max_evals, help=f"evaluations (default: {max_evals})"
    )
    for name, text in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    parser.add_argument(
        "--timeout",
        type=float,
        default=timeout,
        help=f"seconds after which no evaluation begins (default: {timeout:g})",
    )
    arguments = parser.parse_args()
    try:
        check_name(arguments.hyper)
    except ValueError as error:
        parser.error(str(error))
    if arguments.max_evals < 1:
        parser.error(f"--max-evals: expected a number above 0, got {arguments.max_evals}")
    if not 0 < arguments.timeout < math.inf:
        parser.error(f"--timeout: expected seconds above 0, got {arguments.timeout:g}")
    return arguments
