"""Pictures of a model, as PNG files: how right it is on test rows, and what its answers follow.

Two classes: calibration and ROC curve; several classes: a confusion matrix; a number: predicted
against true ones. And for all of them the importance of the features, and a summary of their SHAP
values (Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions", NIPS 2017), which
LightGBM computes itself. No model is trained on the data set's test rows.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from utils.datasets import dataset
from utils.model_store.compatibility import add_absent
from utils.model_store.model import Model
from utils.settings import settings

if TYPE_CHECKING:
    import pandas as pd

TEST_ROWS = 20_000  # at most, evenly spaced ones of the data set's test rows
SHAP_ROWS = 300
POINTS = 2_000  # of a scatter plot or a curve
FEATURES = 15  # the most important ones are shown
BINS = 10
LINE, REFERENCE = "#1f77b4", "#999999"


def write(model: Model, folder: Path) -> dict[str, float]:
    """Write the pictures of a model into the folder; return its figures on the test rows."""
    folder.mkdir()
    frame, outcomes = test_rows()
    frame = add_absent(frame, model.absent)
    scores = model.predict(frame)
    pictures = {"importance": importance, "shap": shap}
    for name, draw in pictures.items():
        _save(folder / f"{name}.png", draw, model, frame)
    for name, draw in _of_answers().items():
        _save(folder / f"{name}.png", draw, outcomes, scores)
    return dataset.target.figures(outcomes, scores)


@cache
def test_rows() -> tuple["pd.DataFrame", np.ndarray]:
    """Return features and outcomes of at most TEST_ROWS test rows."""
    frame, outcomes = dataset.test(settings.data_dir)
    step = max(-(-len(frame) // TEST_ROWS), 1)
    return frame[::step], outcomes[::step]


def _of_answers() -> dict:
    if dataset.target.kind == "number":
        return {"predicted": predicted}
    if dataset.target.outputs > 1:
        return {"confusion": confusion}
    return {"calibration": calibration, "roc": roc}


def _save(path: Path, draw: Callable, *arguments: Any) -> None:
    figure = Figure(figsize=(7.2, 4.8))
    FigureCanvasAgg(figure)
    # Not by one of Matplotlib's layout engines: they draw everything twice.
    axes = figure.add_axes((0.28, 0.12, 0.68, 0.8))
    draw(axes, *arguments)
    figure.savefig(path, dpi=100)


def calibration(axes: Axes, outcomes: np.ndarray, scores: np.ndarray) -> None:
    """Mean outcome over mean probability, in bins with equally many rows."""
    bins = np.array_split(np.argsort(scores, kind="stable"), BINS)
    found = np.array([(scores[rows].mean(), outcomes[rows].mean()) for rows in bins if len(rows)])
    axes.plot([0, 1], [0, 1], color=REFERENCE, linestyle="--", label="perfect")
    axes.plot(*found.T, marker="o", color=LINE, label=f"tenths of {len(scores):,} test rows")
    axes.set(title="Calibration", xlabel="predicted probability", ylabel="share of the outcomes")
    axes.legend()


def roc(axes: Axes, outcomes: np.ndarray, scores: np.ndarray) -> None:
    """True positives over false positives, for each threshold."""
    order = np.argsort(-scores, kind="stable")
    ones = np.append(0, np.cumsum(outcomes[order]))
    zeros = np.arange(len(ones)) - ones
    last = np.append(np.diff(scores[order]) != 0, True)  # of equal scores
    shown = np.flatnonzero(np.append(True, last))
    shown = shown[np.linspace(0, len(shown) - 1, min(POINTS, len(shown))).astype(int)]
    rates = [found[shown] / max(found[-1], 1) for found in (zeros, ones)]
    area = dataset.target.figures(outcomes, scores)["auc"]
    axes.plot([0, 1], [0, 1], color=REFERENCE, linestyle="--", label="chance")
    axes.plot(*rates, color=LINE, label=f"area {area:.4f}, {len(scores):,} test rows")
    axes.set(title="ROC curve", xlabel="false positive rate", ylabel="true positive rate")
    axes.legend(loc="lower right")


def confusion(axes: Axes, outcomes: np.ndarray, scores: np.ndarray) -> None:
    """Shares of the predicted classes, for each true class."""
    labels = [str(label)[:20] for label in dataset.target.labels]
    both = outcomes.astype(int) * len(labels) + scores.argmax(axis=1)
    counts = np.bincount(both, minlength=len(labels) ** 2).reshape(len(labels), -1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(labels) <= FEATURES:
        for (row, column), share in np.ndenumerate(shares):
            color = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=color)
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
        axes.set_yticks(range(len(labels)), labels)
    title = f"Confusion, {len(scores):,} test rows"
    axes.set(title=title, xlabel="predicted class", ylabel="true class")


def predicted(axes: Axes, outcomes: np.ndarray, scores: np.ndarray) -> None:
    """Predicted over true numbers."""
    step = max(len(scores) // POINTS, 1)
    axes.scatter(outcomes[::step], scores[::step], s=6, alpha=0.4, color=LINE, label="test rows")
    limits = [float(outcomes.min()), float(outcomes.max())]
    axes.plot(limits, limits, color=REFERENCE, linestyle="--", label="perfect")
    axes.set(title="Predictions", xlabel=f"true {dataset.target.name}", ylabel="predicted")
    axes.legend()


def importance(axes: Axes, model: Model, _frame: "pd.DataFrame") -> None:
    """How much the features' splits lower the loss in training, as shares."""
    gains = model.booster.feature_importance("gain")
    shares = gains / (gains.sum() or 1)
    shown = np.argsort(shares)[-FEATURES:]
    axes.barh(_names(model, shown), shares[shown], color=LINE)
    axes.set(title="Feature importance", xlabel="share of the gain of all splits")


def shap(axes: Axes, model: Model, frame: "pd.DataFrame") -> None:
    """How far each feature moves single answers; of several classes, the mean over classes."""
    matrix = model.features.transform(frame[:: max(len(frame) // SHAP_ROWS, 1)][:SHAP_ROWS])
    values = model.booster.predict(matrix, pred_contrib=True, num_threads=1)
    values = values.reshape(len(matrix), -1, matrix.shape[1] + 1)[:, :, :-1]
    shown = np.argsort(np.abs(values).mean(axis=(0, 1)))[-FEATURES:]
    if values.shape[1] > 1:
        axes.barh(_names(model, shown), np.abs(values).mean(axis=(0, 1))[shown], color=LINE)
        axes.set(title="SHAP summary", xlabel="mean size of the SHAP values, all classes")
        return
    spread = np.random.default_rng(1).uniform(-0.3, 0.3, len(matrix))
    for place, feature in enumerate(shown):
        _, shades = np.unique(matrix[:, feature], return_inverse=True)  # ranks
        found = axes.scatter(values[:, 0, feature], place + spread, c=shades, cmap="coolwarm", s=6)
    axes.figure.colorbar(found, ax=axes, label="low or high value", ticks=[])
    axes.axvline(0, color=REFERENCE, linewidth=1)
    axes.set_yticks(range(len(shown)), _names(model, shown))
    unit = "log-odds" if dataset.target.kind == "classes" else "standard deviations"
    axes.set(title="SHAP summary", xlabel=f"SHAP value, {unit} ({len(matrix)} test rows)")


def _names(model: Model, places: np.ndarray) -> list[str]:
    # "$" would begin a formula.
    return [model.features.names_out[place][:30].replace("$", r"\$") for place in places]
