"""The data sets; `dataset` is the one in use."""

from utils.datasets import adult as dataset

__all__ = ["dataset"]
