"""A model's card: what is known about a model, one JSON file beside it."""

from typing import Any

import msgspec


class Figures(msgspec.Struct):
    """How good probabilities were on some rows; see train/fit.py: score()."""

    logloss: float
    auc: float
    accuracy: float
    calibration_error: float


class Judgement(msgspec.Struct):
    """Champion and challenger on rows that neither was trained on; see train/judge.py."""

    rows: int
    observed: int  # rows that came with requests, not with the original data
    champion: Figures
    challenger: Figures
    difference: tuple[float, float]  # 95 % interval of the difference of the log losses


class Card(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Everything that is known about a model; each group of fields says who writes it.

    A field that a reader does not know is ignored, so cards of later versions can be read.
    """

    # Written by fit_model() of train/fit.py: how the model was made.
    model_id: int
    rows: int  # trained on
    hyper: str
    evaluations: int
    experiment: str  # the digest of what makes trials comparable, see train/optimizer.py
    seed: int
    parameters: dict[str, float]
    tuning_logloss: float  # on the rows that tuning held out

    # Written by initialize.py and by the training child, train/retrain.py: of which data.
    created: str = ""  # ISO 8601, UTC
    observations: int = 0  # known when the training began
    judge_rows_held_out: int = 0  # rows that are never trained on
    digest_of_rows: str = ""
    offsets: dict[str, int] = {}  # up to which offset of each partition the store had read
    missed_records: int = 0
    expired_records: int = 0

    # Written by the training child: what the judge decided. trainer.py may overrule it.
    parent: int | None = None  # the model that it was judged against
    replaces: int | None = None  # the champion when the training began
    decision: str = ""  # promoted or rejected; empty for the first model
    why: str = ""
    judge: Judgement | None = None

    # Written by model.save(): what a reader verifies before it loads the model.
    digest: str = ""  # SHA-256 of the model's file
    features: list[str] = []
    libraries: dict[str, str] = {}


def encode_card(card: Card) -> bytes:
    """Return the card as JSON for people."""
    return msgspec.json.format(msgspec.json.encode(card), indent=2)


def decode_card(content: bytes) -> Card:
    """Return the card in this JSON; ValueError if it is none."""
    return msgspec.json.decode(content, type=Card)


def as_judgement(figures: Any) -> Judgement:
    """Return a judgement made of plain dicts; ValueError if it is none."""
    return msgspec.convert(figures, Judgement)
