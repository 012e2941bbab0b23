"""What a prediction means: its label, its probability, its scores, the same for all targets.

Replies may come from other programs than predictor.py, with fewer fields: of two classes, some have
no `probability`, and of several, no `probabilities`.
"""

from utils.datasets import dataset
from utils.datasets.targets import Label
from utils.messages import Prediction

IS_NUMBER = dataset.target.kind == "number"
ARE_TWO = not IS_NUMBER and dataset.target.outputs == 1  # classes


def scores_of(reply: Prediction) -> float | list[float]:
    """Return the scores of a reply, as for one row in utils/datasets/targets.py."""
    if IS_NUMBER:
        return reply.prediction
    if ARE_TWO:
        return reply.prediction if reply.probability is None else reply.probability
    known = reply.probabilities or {str(reply.prediction): 1.0}
    return [known.get(str(label), 0.0) for label in dataset.target.labels]


def label_of(reply: Prediction) -> Label:
    """Return the predicted class, or number."""
    return dataset.target.labels[reply.prediction > 0.5] if ARE_TWO else reply.prediction


def probability_of(reply: Prediction) -> float | None:
    """Return the probability of the second of two classes, or of the predicted one of several.

    None if the reply has no probability.
    """
    if ARE_TWO:
        return reply.probability
    return (reply.probabilities or {}).get(str(reply.prediction))


def text_of(reply: Prediction) -> str:
    """Return a probability of two classes, a class and its probability, or a number, as text."""
    if IS_NUMBER:
        return number_text(reply.prediction)
    if ARE_TWO:
        return f"{scores_of(reply):.2f}"
    probability = probability_of(reply)
    return str(reply.prediction) + ("" if probability is None else f" {probability:.2f}")


def number_text(number: float) -> str:
    """Return a number with two decimals, one that is below 1 with three significant digits."""
    return f"{number:,.2f}" if number == 0 or abs(number) >= 1 else f"{number:.3g}"
