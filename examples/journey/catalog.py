"""What the shop sells: the items that DATASET=shop knows, with names and prices for people."""

from typing import NamedTuple

from utils.datasets.shop import CATEGORIES, ITEMS
from utils.settings import settings

_NAMES = {
    "shoes": ["Trail Runner", "City Loafer", "Canvas Low", "Chelsea Boot", "Court Classic"],
    "shirts": ["Oxford Shirt", "Linen Shirt", "Heavy Tee", "Striped Polo", "Flannel Check"],
    "trousers": ["Slim Chino", "Wide Cord", "Raw Denim", "Linen Pant", "Track Pant"],
    "jackets": ["Rain Shell", "Down Vest", "Denim Jacket", "Wool Coat", "Field Parka"],
    "hats": ["Wool Beanie", "Ball Cap", "Straw Hat", "Bucket Hat", "Beret"],
    "bags": ["Day Pack", "Market Tote", "Weekender", "Messenger", "Belt Bag"],
    "belts": ["Saddle Belt", "Webbing Belt", "Braided Belt", "Dress Belt", "Stretch Belt"],
    "socks": ["Hiking Socks", "Rib Socks", "Ankle Socks", "Merino Socks", "Argyle Socks"],
}


class Shown(NamedTuple):
    """An item as the page shows it; price in EUR, without the discount, which is a part of it."""

    item: str
    name: str
    category: str
    price: float
    discount: float


def _shown(number: int) -> Shown:
    category = CATEGORIES[number % len(CATEGORIES)]
    name = _NAMES[category][number // len(CATEGORIES)]
    price = 9.9 + 3.53 * (7 * number % len(ITEMS))  # as in the data set
    discount = 0.3 if number % 5 == 2 else 0.0
    return Shown(ITEMS[number], name, category, round(price, 2), discount)


CATALOG = {shown.item: shown for shown in map(_shown, range(len(ITEMS)))}


def require_shop() -> None:
    """SystemExit unless the pipeline's data set is the shop."""
    if settings.dataset != "shop":
        raise SystemExit(f"DATASET: the journey needs shop (it is {settings.dataset!r})")
