"""A model that answers without this project: JSON and LightGBM's text, no pickle.

tracked_model.py copies this module, and what it imports of the project, beside each model that is
logged to MLflow. So it imports nothing else of the project, and reads no setting.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightgbm as lgb
import numpy as np

from utils.datasets.target import REPLY, Target
from utils.datasets.targets import restore_target
from utils.feature_encoder import FeatureEncoder, LinearScaler, restore_encoder

if TYPE_CHECKING:
    from utils.model_store.model import Model

STATE, BOOSTER = "model.json", "booster.txt"  # the two files of a model


def write(model: "Model", target: Target, folder: Path) -> None:
    """Write a model into the folder; ValueError if its scaler is not a LinearScaler."""
    encoder = model.features
    if not isinstance(encoder.scaler, LinearScaler):
        raise ValueError(f"a {type(encoder.scaler).__name__} can't be written as JSON")
    to_today = model.to_today
    state = {
        "model_id": model.model_id,
        "encoder": encoder.state(),
        "scaler": [encoder.scaler.scale.tolist(), encoder.scaler.minimum.tolist()],
        "absent": model.absent,
        "to_today": None if to_today is None else to_today.tolist(),
        "scale": [model.center, model.spread],
        "target": {"kind": target.kind, "name": target.name, "labels": target.labels}
        | {"outputs": target.outputs},
    }
    (folder / STATE).write_text(json.dumps(state))
    (folder / BOOSTER).write_text(model.booster.model_to_string())


class PortableModel:
    """A model that write() has written into this folder."""

    def __init__(self, folder: Path) -> None:
        state = json.loads((folder / STATE).read_text())
        scale, minimum = (np.array(each, dtype=np.float64) for each in state["scaler"])
        self.encoder: FeatureEncoder = restore_encoder(
            state["encoder"], LinearScaler(scale, minimum)
        )
        self.booster = lgb.Booster(model_str=(folder / BOOSTER).read_text())
        self.model_id, self.absent = state["model_id"], state["absent"]
        self.to_today = None if state["to_today"] is None else np.array(state["to_today"])
        self.center, self.spread = state["scale"]
        self.target = restore_target(**state["target"])

    def scores(self, rows: Sequence[dict]) -> np.ndarray:
        """Return what Model.predict() of utils/model_store/model.py returns, bit for bit.

        ValueError if a row lacks a field that it must have, or a value is of another kind.
        """
        matrix = self.encoder.transform([self.absent | row for row in rows])
        scores = self.booster.predict(matrix, num_threads=1)
        if self.to_today is not None:
            known = scores if scores.ndim == 2 else np.column_stack([1 - scores, scores])
            return self.target.as_scores((known @ self.to_today)[:, -self.target.outputs :])
        is_scaled = (self.center, self.spread) != (0.0, 1.0)
        return scores * self.spread + self.center if is_scaled else scores

    def predict(self, rows: Sequence[dict]) -> list[dict[str, Any]]:
        """Return the predictor's reply to each row, without its request_id.

        rows : each as in the field `data` of a request; other fields are ignored.
        """
        if not rows:
            return []
        answers = self.target.answers(self.scores(rows), self.model_id)
        replies = (zip(REPLY, fields, strict=False) for fields in answers)
        return [{name: value for name, value in each if value is not None} for each in replies]
