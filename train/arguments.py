"""The command line of the scripts that train: how to tune."""

import argparse
import math

from train import OPTIMIZERS, check_name, check_spark
from utils.script import command_line


def parse_arguments(
    description: str, max_evals: int, timeout: float, **flags: str
) -> argparse.Namespace:
    """Parse --hyper, --max-evals, --timeout and the flags; SystemExit if a value is wrong.

    max_evals, timeout (seconds) : the script's defaults; flags : name and help text of each one.
    """
    parser = command_line(description)
    known = ", ".join(OPTIMIZERS)
    parser.add_argument("--hyper", default="hyperopt", help=f"the optimizer: {known}")
    parser.add_argument(
        "--max-evals", type=int, default=max_evals, help=f"evaluations (default: {max_evals})"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=timeout,
        help=f"seconds after which no evaluation starts (default: {timeout:g})",
    )
    parser.add_argument("--spark", default="", help="run Hyperopt's trials on this Spark master")
    for name, text in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    arguments = parser.parse_args()
    try:
        check_name(arguments.hyper)
        if arguments.spark:
            check_spark(arguments.spark, arguments.hyper)
    except ValueError as error:
        parser.error(str(error))
    if arguments.max_evals < 1:
        parser.error(f"--max-evals: expected a number above 0, got {arguments.max_evals}")
    if not 0 < arguments.timeout < math.inf:
        parser.error(f"--timeout: expected seconds above 0, got {arguments.timeout:g}")
    return arguments
