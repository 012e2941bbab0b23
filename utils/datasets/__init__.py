"""The data sets, one file each; `dataset` is the one that DATASET names."""

import sys
from importlib import import_module

from utils.datasets.base import Dataset, DatasetError
from utils.settings import settings


def load(name: str) -> Dataset:
    """Return the data set of the file with this name; SystemExit if it contradicts itself."""
    where = f"utils/datasets/{name}.py"
    try:
        found = import_module(f"utils.datasets.{name}").dataset
        if not isinstance(found, Dataset):
            raise TypeError("its last line has to be like: dataset = Mine()")
        return found
    except DatasetError as error:
        sys.exit(str(error))
    except (AttributeError, TypeError, ValueError) as error:
        sys.exit(f"{where}: {error}")
    except ModuleNotFoundError as error:
        if error.name != f"utils.datasets.{name}":
            raise
        sys.exit(f"DATASET: there is no file {where}")


dataset = load(settings.dataset)

__all__ = ["dataset"]
