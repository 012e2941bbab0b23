"""Which layout a prediction asks for."""

from utils.messages import Prediction

# The shares of the four reactions are about 0.7, 0.18, 0.08 and 0.04: nearly every visitor ignores
# nearly every item. A layout is for those who are clearly above the average.
BUY = 0.15  # probability that the item goes into the basket or is bought
LIKE = 0.15  # probability that it is liked


def layout_for(prediction: Prediction) -> str:
    """Return "buy", "gallery" (of similar items) or "discover" (something else)."""
    chances = prediction.probabilities or {}
    if chances.get("basket", 0) + chances.get("bought", 0) >= BUY:
        return "buy"
    return "gallery" if chances.get("liked", 0) >= LIKE else "discover"
