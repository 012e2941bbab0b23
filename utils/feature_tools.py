"""FeatureTools: turns raw rows into a float64 matrix, for training and for prediction alike."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted

from utils.feature_encoder import fit_encoder


class FeatureTools(TransformerMixin, BaseEstimator):
    """Scale numeric columns and encode categorical and crossed columns, for LightGBM.

    The categories seen in ``fit`` get the codes 0..n-1 in sorted order; an unknown one gets n, as
    LightGBM treats negative codes as missing. This is scikit-learn's ``OrdinalEncoder`` with
    ``handle_unknown="use_encoded_value"`` and n as ``unknown_value``. Where a column has more than
    ``max_categories``, the most frequent ones are kept, and the others are unknown. ``fit`` can be
    given another order, in which unknown may have any place.

    Parameters
    ----------
    numeric_columns, categorical_columns : sequence of str
        The columns to use, in the order of the output; other columns are ignored.
    crossed_columns : sequence of tuples of str, default=()
        Each tuple of categorical columns becomes one more column: the code of their combination.
    scaler : scikit-learn scaler, default=None
        A clone of it is fitted; None means the numbers of ``MinMaxScaler()``.
    max_categories : int, default=None
        The most categories to keep per column, and per combination of columns; None means all. Of
        equally frequent ones, those that sort first are kept.

    Attributes
    ----------
    scaler_ : the fitted scaler
    encoder_ : the FeatureEncoder, which transforms rows without scikit-learn
    categories_, crossed_categories_ : dict of lists, the values (tuples) in order of their codes
    categorical_indices_ : list of int, the positions of the codes in the output
    feature_names_in_, n_features_in_ : the names and the number of the columns it reads

    Notes
    -----
    ``X`` is a DataFrame or a sequence of dicts (JSON rows). A frame, its rows as dicts, and each
    row alone give the same numbers, bit for bit, if the scaler works element by element. None and
    NaN mean "?" in a categorical column that has seen "?", otherwise unknown; in a numeric column
    they are NaN. Categories are compared by value: 1 equals 1.0. ValueError for a missing field,
    for a value in a numeric column that is not a number or is infinite, and for a category that
    can't be hashed, such as a list.

    Examples
    --------
    >>> rows = [{"age": 20, "sex": "Male", "job": "?"}, {"age": 60, "sex": "Female", "job": "Cook"}]
    >>> tools = FeatureTools(["age"], ["sex", "job"], crossed_columns=[("sex", "job")]).fit(rows)
    >>> tools.get_feature_names_out().tolist()
    ['age', 'sex', 'job', 'sex_job']
    >>> tools.transform([{"age": 30, "sex": "Male", "job": None}])
    array([[0.25, 1.  , 0.  , 1.  ]])
    """

    def __init__(
        self,
        numeric_columns: Sequence[str],
        categorical_columns: Sequence[str],
        crossed_columns: Sequence[Sequence[str]] = (),
        scaler: Any = None,
        max_categories: int | None = None,
    ) -> None:
        self.numeric_columns = numeric_columns
        self.categorical_columns = categorical_columns
        self.crossed_columns = crossed_columns
        self.scaler = scaler
        self.max_categories = max_categories

    def fit(
        self, X: Any, y: Any = None, order: Callable[[np.ndarray, int], np.ndarray] | None = None
    ) -> Self:
        """Learn scales, categories and combinations from the rows; y is ignored.

        order : order(codes, n) returns the new codes of 0..n-1 and of n for unknown, a permutation
        of 0..n; codes, of shape (rows,), are those of a column in sorted order.
        """
        self.encoder_ = fit_encoder(
            X,
            self.numeric_columns,
            self.categorical_columns,
            self.crossed_columns,
            None if self.scaler is None else clone(self.scaler),
            self.max_categories,
            order,
        )
        self.feature_names_in_ = np.array(self.encoder_.columns, dtype=object)
        self.n_features_in_ = len(self.encoder_.columns)
        self.scaler_ = self.encoder_.scaler
        self.categories_ = self.encoder_.categories
        self.crossed_categories_ = self.encoder_.crossed_categories
        self.categorical_indices_ = self.encoder_.categorical_indices
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the float64 matrix: scaled numbers, then codes, then codes of combinations."""
        check_is_fitted(self, "encoder_")
        return self.encoder_.transform(X)

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> np.ndarray:
        """Return the names of the output columns; input_features is ignored."""
        check_is_fitted(self, "encoder_")
        return np.array(self.encoder_.names_out, dtype=object)
