"""A data set that changes in the middle of operation: columns and classes come and go."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import islice

import numpy as np
import pandas as pd
import pytest

from tests.harness.brokers import QUICK, initialize
from tests.harness.pipeline import Pipeline, wait_until
from tests.harness.project import add_dataset, copy_project
from utils.datasets.base import Dataset, DatasetError

SOURCE = '''
"""Fruit that is bought or not."""

import numpy as np
import pandas as pd

from utils.datasets.base import Categorical, Dataset, Numeric
from utils.datasets.targets import Classes, Number


class Fruit(Dataset):
    """Red fruit is bought, green fruit is not; blue fruit, perhaps."""

    columns = ({columns})
    target = {target}

    def read_training(self, folder):
        rng = np.random.default_rng(1)
        color = rng.choice(["red", "green", "blue"], 600)
        bought = np.where(color == "blue", rng.choice(["no", "yes"], 600), np.where(color == "red", "yes", "no"))
        return pd.DataFrame({{"price": rng.uniform(1, 5, 600), "color": color, "bought": bought}})

    def read_test(self, folder):
        return self.read_training(folder)[:50]


dataset = Fruit()
'''  # noqa: E501
PRICE, COLOR = 'Numeric("price"),', 'Categorical("color"),'
WEIGHT = 'Numeric("weight", default=100),'
TWO = 'Classes("bought", ["no", "yes"])'
THREE = 'Classes("bought", ["no", "perhaps", "yes"])'


class Shop(Pipeline):
    """A pipeline in a copy of the project, whose data set can be changed."""

    def change(self, *columns: str, target: str = TWO) -> None:
        """Stop all scripts as a user does, and give the data set these columns."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=30)
        self.has_price = PRICE in columns
        source = SOURCE.format(columns=" ".join(columns), target=target)
        add_dataset(self.project, "fruit", source)

    def answers(self, data: dict, number: int = 1, outcome: str = "") -> list[dict]:
        """Send requests with this data, and return the replies to them."""
        known = {"bought": outcome} if outcome else {}
        ids = [f"{len(self.sent) + number}" for number in range(number)]
        for request_id in ids:
            # Equal rows would be on one side, that of training or that of the judge.
            price = {"price": 1 + len(self.sent) % 37 / 10} if self.has_price else {}
            self.sent.append(request_id)
            self.send({"request_id": request_id, "data": price | data | known})
        self.producer.flush()
        replies = self.wait_for_replies(len(self.sent))
        return [reply for reply in replies if reply["request_id"] in ids]

    def card(self, model_id: int) -> dict:
        """Return the card of a model."""
        return json.loads((self.folder / "models" / f"model_{model_id}.json").read_text())

    def completed(self) -> list[int]:
        """Return the models of all trainings that have completed."""
        messages = self.messages("retrain_topic")
        assert not [each for each in messages if "training_failed" in each]
        return [each["model_id"] for each in messages if "why" in each]

    def trained(self, trainings: int) -> dict:
        """Return the card of the model of the training with this number."""
        wait_until(lambda: len(self.completed()) >= trainings, what=f"training {trainings}")
        return self.card(self.completed()[trainings - 1])


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with the data set as it is at first, and its first model."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
    add_dataset(folder, "fruit", SOURCE.format(columns=PRICE + COLOR, target=TWO))
    initialize(folder, *QUICK, project=folder, DATASET="fruit")
    return folder


@pytest.fixture
def shop(broker, project, tmp_path):
    from utils.settings import settings

    for name in ("data", "models"):
        shutil.copytree(project / name, tmp_path / name)
    every = {"DATASET": "fruit", "RETRAIN_EVERY": "20", "EXTRA_MODELS_TO_KEEP": "9"}
    prefix = f"s{tmp_path.name[-20:]}-"
    shop = Shop(settings.kafka_host, prefix, tmp_path, project, **every)
    shop.sent = []
    shop.change(PRICE, COLOR)
    yield shop
    shop.stop_all()


@pytest.mark.slow
def test_columns_and_classes_change_in_the_middle_of_operation(shop):
    shop.predictor()
    shop.trainer()
    shop.answers({"color": "red"}, 20, outcome="yes")
    assert shop.trained(1)["features"] == ["price", "color"]

    # A column is added. Requests of the old kind are answered; the next training learns it.
    shop.change(PRICE, COLOR, WEIGHT)
    predictor = shop.predictor()
    assert "does not know these columns yet: weight" in predictor.log.read_text()
    shop.trainer()
    [old] = shop.answers({"price": 2, "color": "red"})
    [new] = shop.answers({"price": 2, "color": "red", "weight": 5})
    assert old["probabilities"] == new["probabilities"]
    assert old["model_id"] == 1
    shop.answers({"color": "blue", "weight": 5}, 20, outcome="no")
    card = shop.trained(2)
    assert card["features"] == ["price", "weight", "color"]
    assert "not judged" not in card["why"]  # it was compared with the model of the old columns

    # Back to the model of the old columns, and forth again.
    for model_id in (1, 2):
        shop.run("tools.models", "promote", str(model_id))
        shop.wait_for_output(shop.processes[-2], f"Model {model_id} answers from now on.")
        [answer] = shop.answers({"color": "red"})
        assert (answer["model_id"], answer["prediction"]) == (model_id, "yes")

    # A class is added between the others: no outcome changes its meaning.
    shop.change(PRICE, COLOR, WEIGHT, target=THREE)
    shop.predictor()
    shop.trainer()
    [answer] = shop.answers({"color": "red"})
    assert list(answer["probabilities"]) == ["no", "perhaps", "yes"]
    assert answer["probabilities"]["perhaps"] == 0
    assert answer["prediction"] == "yes"
    shop.answers({"color": "white"}, 20, outcome="perhaps")
    card = shop.trained(3)
    assert card["observations"] == 60
    assert "not judged: model 2 does not know the class 'perhaps'" in card["why"]
    replies = shop.answers({"color": "white"}) + shop.answers({"color": "red"})
    assert [reply["prediction"] for reply in replies] == ["perhaps", "yes"]

    # A column is dropped.
    shop.change(COLOR, WEIGHT, target=THREE)
    predictor = shop.predictor()
    shop.trainer()
    assert "uses columns that the data set does not have" in predictor.log.read_text()
    [answer] = shop.answers({"color": "red"})
    assert answer["prediction"] == "yes"
    shop.answers({"color": "red"}, 20, outcome="yes")
    card = shop.trained(4)
    assert card["features"] == ["weight", "color"]
    assert "not judged" in card["why"]  # the column that is gone decided who judges


STORE_TWO = """
from contextlib import closing
from train.store.observations import open_store
with closing(open_store()) as store:
    rows = [(str(n), b'{"price": 1, "color": "red"}', float(n)) for n in (0, 1)]
    store.adapt_target()
    store.add(rows, 0, {})
"""


@pytest.mark.parametrize(
    ("columns", "target", "predictor", "trainer"),
    [
        (
            [PRICE, COLOR],
            'Classes("bought", ["no", "perhaps"])',
            "model 0: predicts the class 'yes', which bought does not have",
            "observations have the class 'yes', which utils/datasets/fruit.py does not have",
        ),
        pytest.param(
            [PRICE, COLOR],
            'Number("bought")',
            "model 0: predicts a class, bought is a number now",
            "its outcomes are of the kind classes, those of utils/datasets/fruit.py number",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ['Categorical("price"),', COLOR],
            TWO,
            "model 0: the column price has changed between numeric and categorical",
            "",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_a_change_makes_unusable_is_said_in_one_sentence(
    shop, columns, target, predictor, trainer
):
    stored = shop.start("-c", STORE_TWO)
    assert stored.wait(timeout=60) == 0
    shop.change(*columns, target=target)
    for script, sentence in (("predictor.py", predictor), ("trainer.py", trainer)):
        if sentence:
            ended = shop.start(script)
            assert ended.wait(timeout=60) == 1
            assert sentence in ended.log.read_text()
            assert "Traceback" not in ended.log.read_text()


@pytest.mark.parametrize(
    ("columns", "target", "problem"),
    [
        (PRICE + PRICE, TWO, ": the column price is there twice"),
        ("Numeric(),", TWO, ", line 14: TypeError: "),
        (PRICE + ")", TWO, ", line 14: SyntaxError: unmatched ')'"),
        (PRICE, 'Classes("bought", [])', ", line 15: bought: needs 2 to 200 classes, it has 0"),
    ],
)
def test_a_data_set_that_contradicts_itself_stops_each_script(project, columns, target, problem):
    add_dataset(project, "wrong", SOURCE.format(columns=columns, target=target))
    command, environment = [sys.executable, "initialize.py"], os.environ | {"DATASET": "wrong"}
    ended = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"utils/datasets/wrong.py{problem}")
    assert len(ended.stderr.splitlines()) == 1


def fruit(columns: str, target: str) -> Dataset:
    """Return the data set of a file with these columns and this target."""
    module = {"__name__": "utils.datasets.wrong"}
    exec(SOURCE.format(columns=columns, target=target), module)  # noqa: S102 - as an import does
    return module["dataset"]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        (PRICE + 'Categorical("bought"),', "the target bought is among the columns"),
        ("", "there is no column"),
        (PRICE + "'color',", "columns: expected Numeric or Categorical, got 'color'"),
        ('Numeric("price", default="x"),', "price is numeric, its default is 'x'"),
        ('Numeric("price", default=1e16),', "price is numeric, its default is 1e+16"),
        ('Categorical("color", default=1),', "color is categorical, its default is 1"),
    ],
)
def test_columns_that_contradict_each_other_are_refused(columns, problem):
    with pytest.raises(DatasetError, match=f"^utils/datasets/wrong.py: {re.escape(problem)}$"):
        fruit(columns, TWO)


@pytest.mark.parametrize(
    ("columns", "target", "problem"),
    [
        ('Numeric("color"),', TWO, ": the column color is numeric, expected a number, got '"),
        ('Categorical("price"),', TWO, ": the column price is categorical, expected a string, "),
        ('Numeric("weight"),', TWO, " returns no column weight"),
        (PRICE, 'Classes("bought", ["no", "x"])', ", row 3: bought: expected one of no, x, got"),
        (PRICE, 'Number("bought")', ", row 0: bought: expected a number, got "),
        (PRICE, 'Classes("sold", ["no", "yes"])', " returns no column sold"),
    ],
)
def test_rows_that_are_not_as_declared_are_refused(tmp_path, columns, target, problem):
    declared = re.escape(f"utils/datasets/wrong.py: read_training(){problem}")
    with pytest.raises(DatasetError, match=f"^{declared}"):
        fruit(columns, target).training(tmp_path)


def without_return(folder):
    pass


def of_one_class(folder):
    return pd.DataFrame({"price": [1.0, 2.0, 3.0], "bought": ["no", "no", "yes"]})


def of_a_missing_file(folder):
    return pd.read_csv(folder / "missing.csv")


@pytest.mark.parametrize(
    ("read", "problem"),
    [
        (without_return, "without_return() returns NoneType, not a DataFrame"),
        (of_one_class, "read_training(): a model needs at least two rows of each of two classes"),
        (of_a_missing_file, "FileNotFoundError: "),
        (lambda folder: of_one_class(folder)[:0], "read_training() returns no row"),
    ],
)
def test_what_read_training_does_wrong_is_said_in_one_sentence(
    monkeypatch, tmp_path, read, problem
):
    data = fruit(PRICE, TWO)
    monkeypatch.setattr(data, "read_training", read)
    with pytest.raises(DatasetError, match=f"^utils/datasets/wrong.py: {re.escape(problem)}"):
        data.training(tmp_path)


def test_nullable_columns_of_pandas_are_read(tmp_path, monkeypatch):
    data = fruit(PRICE + COLOR, TWO)
    rows = data.read_training(tmp_path).convert_dtypes()
    rows.loc[3, ["price", "color"]] = pd.NA
    monkeypatch.setattr(data, "read_training", lambda folder: rows)
    monkeypatch.setattr(data, "read_test", lambda folder: rows)
    frame, _ = data.training(tmp_path)
    assert frame.isna().sum().tolist() == [1, 1]
    visitor = list(islice(data.visitors(tmp_path), 4))[3]
    assert (visitor["price"], visitor["color"]) == (None, None)


@pytest.mark.parametrize(
    ("values", "got"), [([[1], [2]], "[1]"), ([1, -(2**63)], "-9223372036854775808")]
)
def test_odd_values_are_refused(tmp_path, monkeypatch, values, got):
    data = fruit(PRICE, TWO)
    rows = pd.DataFrame({"price": values, "bought": ["no", "yes"]})
    monkeypatch.setattr(data, "read_training", lambda folder: rows)
    with pytest.raises(DatasetError, match=f"is numeric, expected a number, got {re.escape(got)}$"):
        data.training(tmp_path)


def test_null_objects_of_pandas_are_nulls(tmp_path, monkeypatch):
    data = fruit(PRICE, TWO)
    prices = pd.Series([1.5, pd.NA, pd.NaT, None, 2], dtype=object)
    rows = pd.DataFrame({"price": prices, "bought": ["no", "yes", "no", "yes", "no"]})
    monkeypatch.setattr(data, "read_training", lambda folder: rows)
    frame, _ = data.training(tmp_path)
    found = frame["price"].to_numpy(np.float64)
    np.testing.assert_array_equal(found, [1.5, np.nan, np.nan, np.nan, 2])
