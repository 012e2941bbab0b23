"""A web shop: what becomes of an item that is recommended to a visitor.

The four reactions are the tutorial's: 0 ignored, 1 liked, 2 put into the basket, 3 bought. The data
are generated, so the probability of each reaction is known, and with it the least log loss that any
model can reach. Visit number t, negative for the past, has the softmax of

    ignored     0
    liked       0.8 interest - 2.5 + 0.5 (phone)
    basket      1.2 interest - 5.2 + 0.15 views + 1.5 attention
    bought      1.6 interest - 6.0 + 1 (returning) + 0.8 (at leisure) - price / 50 + 1.5 attention

    interest    1.5 cos(2 pi (season + 0.618 item)) + affinity of category and source (-1 or 1)
                + 3 discount, which counts twice in a mail or an ad
    season      t / 200,000
    attention   seconds / (30 views), 1 at most
    at leisure  from 18 h on with a phone or a tablet, from 9 to 17 h with a desktop

So combinations of columns matter, and what is popular changes slowly. A drift lets the popularity
jump by half a period: what everyone liked, nobody likes any more.

The same numbers come about on every machine and with every version of NumPy: they are PCG64's raw
output, which is fixed (NEP 19), and exact arithmetic. Only exp() and cos() may differ in the last
digit, which changes one reaction in 10^15.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.datasets.base import Categorical, Dataset, Numeric
from utils.datasets.targets import Classes, Label

if TYPE_CHECKING:
    import pandas as pd

ITEMS = [f"item-{number:02}" for number in range(40)]
CATEGORIES = ["shoes", "shirts", "trousers", "jackets", "hats", "bags", "belts", "socks"]
NAMES = {
    "item": ITEMS,
    "category": CATEGORIES,
    "device": ["phone", "tablet", "desktop"],
    "source": ["search", "mail", "ad", "direct"],
    "visitor": ["new", "returning"],
}
PHONE, DESKTOP, MAIL, AD, RETURNING = 0, 2, 1, 2, 1  # their places in NAMES
ACTIONS = {
    "ignored": "show another one",
    "liked": "show more like it",
    "basket": "offer free shipping",
    "bought": "reserve one",
}
DISCOUNTS = np.array([0, 0, 0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.5])
AFFINITY = np.array(  # of each category and source; neither of the two tells anything alone
    [[1, 1, -1, -1], [-1, 1, 1, -1], [-1, -1, 1, 1], [1, -1, -1, 1]]
    + [[1, -1, 1, -1], [-1, 1, -1, 1], [1, 1, -1, -1], [-1, -1, 1, 1]]
)
PERIOD = 200_000  # visits after which the popularity of the items is the same again
DAY = 3_000  # visits
TRAINING = 7 * DAY  # visits before number 0
TEST = 3 * DAY  # visits around number 0, of other visitors

AT_ONCE = 40  # visitors at the same time: the next visit of each one is 40 numbers later
LONGEST = 16  # visits of a session
ENDS = 0.3  # the probability that a session ends after a visit

# What is drawn for each visit, from 0 to 1. The first visit of a session draws for all of them.
OF_SESSION = ("device", "source", "visitor", "pace")
DRAWN = (*OF_SESSION, "starts", "item", "variant", "discount", "moment", "reaction")


class Shop(Dataset):
    """The visits of a week for training, those of three other days as test rows."""

    columns = (
        Numeric("price"),  # EUR
        Numeric("discount", default=0),  # a part of the price, 0.5 at most
        Numeric("views"),  # items that the visitor has viewed in this session, with this one
        Numeric("seconds"),  # since the session began
        Numeric("hour", moves=True),
        *(Categorical(name) for name in NAMES),
    )
    crossed = (("category", "source"),)
    target = Classes("reaction", ACTIONS)
    test_rows = f"{TEST:,} other visits"
    outcome_delay = 120.0

    def read_training(self, folder: Path) -> "pd.DataFrame":
        """Return the visits of the week before visit 0."""
        return visits(-TRAINING, TRAINING, seed=1)

    def read_test(self, folder: Path) -> "pd.DataFrame":
        """Return the visits of other visitors around number 0, each with its season."""
        return visits(-TEST // 2, TEST, seed=2)

    def visitors(self, folder: Path, drift_at: int | None = None) -> Iterator[dict]:
        """Yield visits from number 0 on, others in each run; see requests().

        drift_at : the number of the visit at which the popularity of the items jumps.
        """
        seed, first = np.random.SeedSequence().entropy, 0
        while True:
            yield from requests(first, DAY, seed, drift_at)
            first += DAY

    def describe(self, data: dict) -> str:
        """Return the item and its price."""
        return f"{data['item']}, {data['price']:.2f}"

    def action(self, prediction: Label, probability: float | None) -> str:
        """Return what the shop does while the visitor still looks at the page."""
        return ACTIONS[prediction]

    def true_scores(self, rows: "pd.DataFrame") -> np.ndarray:
        """Return the probability of each reaction; the rows are those of visits()."""
        import pandas as pd

        codes = {name: pd.Categorical(rows[name], known).codes for name, known in NAMES.items()}
        return probabilities({name: rows[name].to_numpy() for name in rows} | codes)


def visits(first: int, count: int, seed: int, drift_at: int | None = None) -> "pd.DataFrame":
    """Return the visits from number `first` on: columns, reaction, season and session.

    The same seed gives the same visits, whether they are made at once or in parts.
    """
    import pandas as pd

    return pd.DataFrame(_generate(first, count, seed, drift_at))


def requests(first: int, count: int, seed: int, drift_at: int | None = None) -> Iterator[dict]:
    """Yield these visits as requests have them; where there is no discount, the field is absent."""
    visited = _generate(first, count, seed, drift_at)
    names = [*dataset.names, dataset.target.name]
    for row in zip(*(visited[name].tolist() for name in names), strict=True):
        visitor = dict(zip(names, row, strict=True))
        if not visitor["discount"]:
            del visitor["discount"]
        yield visitor


def season(t: np.ndarray, drift_at: int | None = None) -> np.ndarray:
    """Return the season at the visits with these numbers: how often the popularity came around."""
    return (t if drift_at is None else t + PERIOD // 2 * (t >= drift_at)) / PERIOD


def probabilities(visited: dict[str, np.ndarray]) -> np.ndarray:
    """Return the probability of each reaction, shape (n, 4); see the top of this file.

    visited : the columns and the season, shape (n,); categories are their positions in NAMES.
    """
    views, hour, source = visited["views"], visited["hour"], visited["source"]
    popularity = np.cos(2 * np.pi * (visited["season"] + 0.618 * visited["item"]))
    affinity = AFFINITY[visited["category"], source]
    is_pushed = (source == MAIL) | (source == AD)
    interest = 1.5 * popularity + affinity + 3 * visited["discount"] * np.where(is_pushed, 2, 1)
    attention = np.minimum(visited["seconds"] / (30 * views), 1)
    by_day = (hour >= 9) & (hour < 18)
    at_leisure = np.where(visited["device"] == DESKTOP, by_day, hour >= 18)
    liked = 0.8 * interest - 2.5 + 0.5 * (visited["device"] == PHONE)
    basket = 1.2 * interest - 5.2 + 0.15 * views + 1.5 * attention
    bought = 1.6 * interest - 6.0 + (visited["visitor"] == RETURNING) + 0.8 * at_leisure
    bought += 1.5 * attention - visited["price"] / 50
    odds = np.exp(np.column_stack([np.zeros(len(views)), liked, basket, bought]))
    return odds / odds.sum(axis=1, keepdims=True)


def _generate(first: int, count: int, seed: int, drift_at: int | None) -> dict[str, np.ndarray]:
    """Return the visits as arrays of shape (count,), see visits()."""
    t, session, drawn = _sessions(first, count, seed)
    codes = {name: _choose(drawn[name], len(NAMES[name])) for name in NAMES if name in drawn}
    codes["category"] = codes["item"] % len(CATEGORIES)
    views = (t - session) // AT_ONCE + 1
    visited = {
        "price": _cents(codes["item"], drawn["variant"]) / 100,
        "discount": DISCOUNTS[_choose(drawn["discount"], len(DISCOUNTS))],
        "views": views,
        "seconds": ((4 + 60 * drawn["pace"]) * (views - 1 + drawn["moment"])).astype(int),
        "hour": (9 + t % DAY * 24 // DAY) % 24,  # visit 0 is at 9 h
        "season": season(t, drift_at),
        "session": session,
    }
    upper = probabilities(visited | codes).cumsum(axis=1)[:, :-1]
    names = NAMES | {dataset.target.name: dataset.target.labels}
    codes[dataset.target.name] = (drawn["reaction"][:, None] >= upper).sum(axis=1)
    texts = {name: np.array(names[name], dtype=object)[chosen] for name, chosen in codes.items()}
    return visited | texts


def _cents(item: np.ndarray, variant: np.ndarray) -> np.ndarray:
    """Return prices from 8.91 to 162.32: each item has one, its variants differ by 10 % at most."""
    of_item = 990 + 353 * (7 * item % len(ITEMS))
    return of_item * (90 + _choose(variant, 21)) // 100


def _choose(drawn: np.ndarray, count: int) -> np.ndarray:
    """Return integers from 0 to count - 1 for numbers from 0 to 1."""
    return (drawn * count).astype(int)


def _sessions(first: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, dict]:
    """Return the numbers of visits, those of the first visits of their sessions, and what is drawn.

    Visits whose numbers are AT_ONCE apart are those of one visitor, until a session starts.
    """
    # A session that lasts at the first visit began at most so many visits before.
    before = AT_ONCE * (LONGEST - 1)
    t = np.arange(first - before, first + count)
    drawn = _draw(first - before, len(t), seed)
    # Every LONGEST visits of a visitor, at different times for different visitors, one starts.
    starts = (drawn["starts"] < ENDS) | ((t // AT_ONCE - t % AT_ONCE) % LONGEST == 0)
    began = np.arange(len(t))
    for _ in range(1, LONGEST):
        lasts = ~starts[began] & (began >= AT_ONCE)
        began[lasts] -= AT_ONCE
    of_session = {name: drawn[name][began] for name in OF_SESSION}
    drawn = {name: values[before:] for name, values in (drawn | of_session).items()}
    return t[before:], t[began][before:], drawn


def _draw(first: int, count: int, seed: int) -> dict[str, np.ndarray]:
    """Return for each name of DRAWN numbers of shape (count,), from 0 to 1 without 1."""
    stream = np.random.PCG64(seed)
    stream.advance((first + 2**40) * len(DRAWN))  # numbers of visits may be negative
    raw = stream.random_raw(count * len(DRAWN)).reshape(count, -1)
    return dict(zip(DRAWN, (raw >> np.uint64(11)).T * 2.0**-53, strict=True))


dataset = Shop()
