"""Imports point one way: which room may import which, read from the imports themselves."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from utils.files import ROOT

SCRIPTS = {"initialize", "predictor", "trainer", "sample_app", "monitor"}
UTILS = {"ground", "kafka_client", "datasets", "model_store"}
# What each room may import beside itself. `ground` is what lies in utils/ itself.
MAY_IMPORT = {
    "ground": set(),
    "datasets": {"ground"},
    "kafka_client": {"ground"},
    "model_store": {"ground", "datasets", "kafka_client"},
    "train": UTILS,
    "monitoring": UTILS,
    "scripts": UTILS | {"train", "monitoring"},
    "tools": UTILS | {"train", "monitoring"},
    "examples": UTILS,
    "bench": UTILS | {"train", "monitoring", "tools", "tests/harness", "examples"},
    "tests/harness": UTILS | {"train", "monitoring", "tools"},
    "tests/chaos": UTILS | {"train", "tools", "tests/harness"},
    "tests": UTILS | {"train", "monitoring", "tools", "tests/harness", "tests/chaos", "examples"},
}
# Imports of single modules that the table does not allow.
EXCEPTIONS = {
    ("utils.messages", "utils.datasets"),  # columns and target make the types of the wire format
    ("utils.messages", "utils.datasets.target"),
    ("utils.answers", "utils.datasets"),  # the target says what a prediction means
    ("utils.answers", "utils.datasets.targets"),
    ("utils.company", "utils.datasets"),  # the visitors
    ("utils.company", "utils.datasets.targets"),
    ("utils.messages", "utils.kafka_client.records"),
    ("utils.script", "utils.kafka_client.security"),  # what ends a script with one sentence
    ("tests.test_trainer_ends", "trainer"),  # its conclude() is what is tested
    ("bench.loops", "predictor"),  # its answer() is what is measured
    ("bench.growth", "predictor"),
    ("bench.split", "predictor"),
}
# The parts of the ground that know what the data is; kafka_client must not.
ABOUT_THE_DATA = {
    "utils.messages",
    "utils.feature_tools",
    "utils.feature_encoder",
    "utils.company",
    "utils.answers",
}
KAFKA_TYPES = {
    "TopicPartition",
    "KafkaAdminClient",
    "KafkaConsumer",
    "KafkaProducer",
    "ConsumerRecord",
}


def modules() -> list[str]:
    """Return the dotted names of all modules that git tracks, or would."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [Path(path) for path in listed.stdout.split() if (ROOT / path).exists()]
    return [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]


def room(module: str) -> str:
    """Return the room of a module."""
    first, *rest = module.split(".")
    if first in SCRIPTS:
        return "scripts"
    if first == "utils":
        return rest[0] if rest and rest[0] in UTILS else "ground"
    if first == "tests" and rest and rest[0] in ("harness", "chaos"):
        return f"tests/{rest[0]}"
    return first


def tree(module: str) -> ast.Module:
    path = ROOT / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text())


def imports(module: str) -> Iterator[tuple[str, str]]:
    """Yield (module, name) for everything that a module imports, wherever in it."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def arrows(known: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (importing module, imported module) within the project."""
    for module in known:
        for source, name in imports(module):
            if f"{source}.{name}" in known:
                yield module, f"{source}.{name}"
            elif source in known:
                yield module, source


def is_allowed(module: str, imported: str) -> bool:
    here, there = room(module), room(imported)
    if here == "kafka_client" and imported in ABOUT_THE_DATA:
        return False
    if here == there:
        return here != "scripts"
    return there in MAY_IMPORT[here] or (module, imported) in EXCEPTIONS


def test_imports_point_one_way():
    wrong = {f"{a} -> {b}" for a, b in arrows(modules()) if not is_allowed(a, b)}
    assert not wrong


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("utils.files", "utils.kafka_client.consumer"),
        ("utils.kafka_client.batch", "utils.messages"),
        ("utils.kafka_client.batch", "utils.datasets"),
        ("utils.model_store.registry", "train.fit"),
        ("train.fit", "monitoring.page.page"),
        ("train.fit", "tools.models"),
        ("predictor", "tools.models"),
        ("trainer", "predictor"),
        ("tests.test_layout", "bench.arena"),
        ("bench.arena", "tests.chaos.run"),
    ],
)
def test_an_import_that_points_the_wrong_way_is_found(module, imported):
    assert not is_allowed(module, imported)


def test_only_the_kafka_client_room_uses_kafka_python():
    """Others may name its types and catch its errors."""
    product = [m for m in modules() if room(m) in UTILS | {"train", "tools", "scripts", "examples"}]
    wrong = set()
    for module in product:
        if room(module) == "kafka_client":
            continue
        for source, name in imports(module):
            if source.split(".")[0] == "kafka" and source != "kafka.errors":
                wrong |= set() if name in KAFKA_TYPES else {f"{module}: {source}.{name}"}
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                wrong |= {f"{module}: {node.func.id}()"} & {
                    f"{module}: {name}()" for name in KAFKA_TYPES - {"TopicPartition"}
                }
    assert not wrong
