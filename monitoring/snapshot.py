"""What the monitor knows at a moment, for whoever shows it: page, terminal, alerts, metrics.

monitoring/observer.py makes a Snapshot every second. Times are seconds since 1970, durations are
seconds, shares are parts of 1. None: not known yet.
"""

import msgspec

Figures = dict[str, float]  # as Target.figures() of utils/datasets/target.py names them


class Flow(msgspec.Struct):
    """Messages of the topics: how many there were, and how many come now."""

    requests: int = 0  # valid ones; two of one id are two
    predictions: int = 0  # replies with a prediction, unexpected ones too
    error_replies: int = 0
    dead_letters: int = 0
    outcomes: int = 0  # reported ones, and those that requests contain
    observations: int = 0  # requests that have a prediction and an outcome, the last of their id
    retrain_requests: int = 0
    unexpected_replies: int = 0  # of no request, or after its first reply: forged, perhaps
    requests_per_second: float = 0.0  # these three: by timestamps, over the last 10 whole seconds
    replies_per_second: float = 0.0
    outcomes_per_second: float = 0.0
    # Requests that no reply has answered yet: what the predictors have to do. The group's lag in
    # records counts the predictors' own replies too.
    unanswered: int = 0
    oldest_unanswered: float | None = None  # its age
    group_lag: int | None = None  # in records of app_messages, as Kafka's own tools show it
    errors: dict[str, int] = {}  # reason of a dead letter: how many; bounded, the rest is "others"


class Latency(msgspec.Struct):
    """From a request's timestamp to its reply's, exact to 1 %, over the newest replies.

    Those to the requests of the newest intervals of the curves that have 1,000 replies together.
    """

    p50: float | None = None
    p99: float | None = None
    answers: int = 0  # of how many replies these are


class OutcomeDelay(msgspec.Struct):
    """How long after its request an outcome comes, over the 5,000 newest that were reported."""

    p50: float | None = None
    p99: float | None = None
    never: float | None = None  # share of predictions older than p99 that have no outcome


class CalibrationBin(msgspec.Struct):
    """Predictions of nearly the same probability (or number), and what really happened.

    Of several classes: the probability of the predicted one, and how often it was right.
    """

    prediction: float  # their mean
    outcome: float  # the mean of their outcomes
    rows: int


class ModelState(msgspec.Struct):
    """One model: what it answered, and how good that was."""

    model_id: int  # -1: replies without one
    # champion: answers now; former: was the champion; rejected: by the judge; training: is being
    # made; unknown: it answers, and has no card that can be read.
    role: str
    why: str = ""  # the judge's words
    created: str = ""  # ISO 8601, UTC
    trees: int = 0
    rows: int = 0  # it was trained on
    answers: int = 0  # all its predictions
    outcomes: int = 0  # of them with a known outcome
    first_answer: float | None = None
    last_answer: float | None = None
    window: int = 0  # newest observations that `figures` are about, at most 5,000
    figures: Figures = {}  # the loss is the first one
    loss_of_mean: float | None = None  # over the same: of always predicting their mean outcome
    is_useless: bool = False  # beyond chance, the loss is above loss_of_mean
    mean_loss: float | None = None  # over all its observations
    calibration: list[CalibrationBin] = []


class Drift(msgspec.Struct):
    """How far newest values differ from those of the champion's training set."""

    name: str  # a column; "score" for the predictions, "loss" for the loss
    value: float  # population stability index; of the loss: newer minus older mean
    threshold: float  # above it, chance does not explain the difference
    rows: int  # newest ones compared: requests, predictions, observations
    drifted: bool = False
    since: float | None = None  # of the loss: the first request after the change


class Training(msgspec.Struct):
    """Trainings so far, by how they ended, and the one that runs."""

    completed: int = 0
    rejected: int = 0
    failed: int = 0
    last_end: float | None = None


class Mark(msgspec.Struct):
    """An event on the time axis."""

    time: float
    # promoted, rejected, failed, answers (a model's first answer: the predictor has loaded it),
    # retrain (a retrain request), drift, alert, end (of an alert), missed (records that Kafka has
    # deleted)
    kind: str
    text: str
    model_id: int | None = None


class Alert(msgspec.Struct):
    """Something that a rule of the alerts' file says a person should know."""

    rule: str
    text: str
    since: float
    end: float | None = None


class Following(msgspec.Struct):
    """How far the monitor itself has read."""

    behind: float | None = (
        None  # age of the requests of the last poll, seconds; 0: nothing was waiting
    )
    missed: int = 0  # records that Kafka deleted before they were read
    unmatched: int = 0  # ids with an outcome whose prediction is not known (yet, or any more)
    notes: list[str] = []  # in words: what these figures miss
    kafka_away_since: float | None = None  # None: Kafka answers


class Snapshot(msgspec.Struct):
    """Everything at a moment; without further fields, what is known before the first request."""

    time: float  # of this snapshot, by the monitor's clock
    started: float | None = None  # timestamp of the first record that was read
    dataset: str = ""
    loss: str = ""  # the name of the loss: "log loss"
    champion: int | None = None
    flow: Flow = msgspec.field(default_factory=Flow)
    latency: Latency = msgspec.field(default_factory=Latency)
    outcome_delay: OutcomeDelay = msgspec.field(default_factory=OutcomeDelay)
    training: Training = msgspec.field(default_factory=Training)
    models: list[ModelState] = []  # the newest ones, newest first
    drift: list[Drift] = []
    alerts: list[Alert] = []  # active ones, then the newest that have ended
    marks: list[Mark] = []  # the newest ones, oldest first
    following: Following = msgspec.field(default_factory=Following)


class Point(msgspec.Struct):
    """One interval of the curves; by the time of the request."""

    time: float  # its begin
    requests: int = 0
    predictions: int = 0
    errors: int = 0
    outcomes: int = 0  # of its requests, so far
    p50: float | None = None  # latency
    p99: float | None = None
    loss: float | None = None  # mean over its requests whose outcome is known
    accuracy: float | None = None  # None for a number
    unanswered: int = 0  # of its requests
    model_id: int | None = None  # that gave most of the answers


class History(msgspec.Struct):
    """The curves over a span of time, as equal intervals; those without a record are left out."""

    span: str  # "hour", "day" or "all"
    interval: float  # seconds
    points: list[Point]
    marks: list[Mark]
