"""Tuning and fitting: one `LGBOptimizer` interface, chosen with `--hyper`."""

import argparse
from importlib import import_module

# The name given to --hyper -> the module that holds its LGBOptimizer. A module is imported only
# when it is asked for: Hyperopt alone takes a second to import, and the predictor needs none.
OPTIMIZERS = {"hyperopt": "train.train_hyperopt"}


def optimizer_class(name: str) -> type:
    """Return the `LGBOptimizer` class that `--hyper name` stands for.

    ValueError for any other name.
    """
    check_name(name)
    return import_module(OPTIMIZERS[name]).LGBOptimizer


def check_name(name: str) -> None:
    """Raise ValueError, in one sentence that lists the known names, if `--hyper name` is none."""
    if name not in OPTIMIZERS:
        raise ValueError(f"--hyper {name!r} is not known; there is: {', '.join(OPTIMIZERS)}")


def parse_arguments(description: str, max_evals: int, **flags: str) -> argparse.Namespace:
    """Read `--hyper`, `--max-evals` and flags (name: help); a wrong value ends the program."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = ", ".join(OPTIMIZERS)
    parser.add_argument("--hyper", default="hyperopt", help=f"what tunes the model: {known}")
    parser.add_argument(
        "--max-evals", type=int, default=max_evals, help=f"evaluations (default: {max_evals})"
    )
    for name, text in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    arguments = parser.parse_args()
    try:
        check_name(arguments.hyper)
    except ValueError as error:
        parser.error(str(error))
    if arguments.max_evals < 1:
        parser.error(f"--max-evals: expected a number above 0, got {arguments.max_evals}")
    return arguments
