"""A model's card: everything that is known about a model, as one JSON file beside it."""

from typing import Annotated

import msgspec

MOST_BYTES = 2**30  # of a model's file: a larger one is no model, and is not read
ModelId = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class ModelError(Exception):
    """A model that can't be used; the text says which one and why."""


Figures = dict[str, float]  # how good scores are on some rows; see utils/datasets/target.py


class Judgement(msgspec.Struct):
    """The champion and the challenger on rows that neither was trained on; see train/judge.py."""

    rows: int
    observed: int  # of these rows: observations, not original data; fewer than half do not count
    champion: Figures
    challenger: Figures
    difference: tuple[float, float]  # 95 % interval of challenger's minus champion's loss
    estimate: float = 0.0  # of this difference: that of the median group
    finding: str = ""  # which of the rules of train/judge.py decided
    margin: float = 0.0  # the smallest loss that matters
    cost: float = 0.0  # challenger's cost of a prediction, as a multiple of the champion's
    anchor: ModelId | None = None  # the best earlier champion, if that is not this champion
    anchor_difference: tuple[float, float] | None = None  # as `difference`, to the anchor


class Histogram(msgspec.Struct):
    """How the values of a column, or scores, are distributed.

    counts : numbers below edges[0], from edges[0] to below edges[1], ..., from the last edge on;
    or rows of each category, then of all other ones. Last, in both cases: nulls.
    """

    counts: list[int]
    edges: list[float] = []
    categories: list[str] | None = None  # None for numbers


class Reference(msgspec.Struct):
    """What a model's requests are compared with to find drift; see train/reference.py."""

    columns: dict[str, Histogram] = {}  # of the training set
    distinct: float = 1.0  # share of its rows that are not the same as an earlier one
    # Of rows that it was not trained on, if there are any: the probability of the second of two
    # classes, the predicted one of several, or the number.
    score: Histogram | None = None


class Card(msgspec.Struct, kw_only=True):
    """Everything that is known about a model; comments say who writes each group of fields.

    Unknown fields are ignored, so older code can read the cards of newer code.
    """

    # fit_model() of train/fit.py: how the model was made.
    model_id: ModelId
    rows: int  # in the training set
    hyper: str  # the optimizer's name, as --hyper takes it
    evaluations: int
    experiment: str  # a digest: which trials are comparable, see train/trials.py
    seed: int
    parameters: dict[str, int | float]
    # On the rows that tuning held out; of a number, as a part of its variance. In the file it has
    # the name that older code reads.
    tuning_loss: float = msgspec.field(default=0.0, name="tuning_logloss")
    dataset: str = ""  # its name; "" if not recorded
    target: str = ""  # its kind, "classes" or "number"; "" if not recorded
    classes: list[str | int] = []  # in the order of the model's outputs; [] if not recorded
    model_cost: str = ""  # the setting MODEL_COST of this tuning; "" if not recorded
    trees: int = 0
    decisions_per_row: float = 0.0  # tree nodes that a row passes on average; see train/cost.py
    us_per_row: float = 0.0  # CPU time of a prediction in a batch, when the model was made
    # Of the point that was chosen: rounds (trees of each class) and the loss after them, on the
    # rows that tuning held out; at most 100 of them.
    learning_curve: list[tuple[int, float]] = []
    study: str = ""  # where train/trials.py keeps this tuning's trials ...
    trials: tuple[int, int] | None = None  # ... and the first and the last id of them
    durations: dict[str, float] = {}  # seconds of "tuning", "fit" and "judge"
    code_digest: str = ""  # SHA-256 of the source files of train/ and utils/
    reference: Reference | None = None  # None if not recorded; its score: from the groups below

    created: str = ""  # ISO 8601, UTC

    # initialize.py and the training child, train/retrain.py: from which data.
    observations: int = 0  # complete ones when the training began
    judge_rows_held_out: int = 0  # never trained on, they judge
    split: str = ""  # the rule that decided which rows these are, see train/rows.py
    split_columns: list[str] = []  # whose values decided it; [] for all of `features`
    split_defaults: dict[str, str | float | None] | None = None  # of those that may be absent
    filled_with_null: dict[str, int] = {}  # column: rows that lack it, see train/store/columns.py
    digest_of_rows: str = ""  # SHA-256 of the training set
    offsets: dict[str, int] = {}  # "topic-partition": the offset that was to be read next
    missed_records: int = 0  # deleted by Kafka before the trainer read them, so far
    expired_records: int = 0  # deleted from the store because request or outcome never came

    # The training child: what the judge decided. trainer.py may overrule the decision.
    parent: int | None = None  # the model it was compared with
    replaces: int | None = None  # what champion.json named when the training began
    decision: str = ""  # "promoted" or "rejected"; "" for the first model
    why: str = ""
    judge: Judgement | None = None
    anchor: ModelId | None = None  # the best champion before this model; prune() keeps it

    # save() of utils/model_store/model.py: what load() checks.
    features: list[str] = []  # the columns of a request that the model reads
    libraries: dict[str, str] = {}  # name -> version

    # Registry.publish()
    digest: str = ""  # SHA-256 of the model's file
    file_bytes: int = 0  # its size


def encode_card(card: Card) -> bytes:
    """Return the card as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(card), indent=2)


def decode_card(content: bytes) -> Card:
    """Return the card in this JSON; ValueError if it is not a card."""
    return msgspec.json.decode(content, type=Card)
