"""The data sets, one file each; `dataset` is the one that DATASET names."""

import sys
from importlib import import_module

from utils.datasets.base import Dataset, DatasetError, in_words
from utils.settings import settings


def load(name: str) -> Dataset:
    """Return the data set of the file with this name; SystemExit if it contradicts itself."""
    where = f"utils/datasets/{name}.py"
    try:
        found = getattr(import_module(f"utils.datasets.{name}"), "dataset", None)
    except DatasetError as error:
        sys.exit(str(error))
    except ModuleNotFoundError as error:
        if error.name != f"utils.datasets.{name}":
            sys.exit(in_words(error, where))
        sys.exit(f"DATASET: there is no file {where}")
    except Exception as error:
        sys.exit(in_words(error, where))
    if not isinstance(found, Dataset):
        sys.exit(f"{where}: its last line has to be like: dataset = Mine()")
    return found


dataset = load(settings.dataset)

__all__ = ["dataset"]
