"""What a script shows on METRICS_PORT, read as Prometheus or a supervisor reads it."""

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.harness.pipeline import wait_until
from tools.local_kafka import free_port
from utils.files import ROOT

CONFIG = ROOT / "monitoring" / "prometheus" / "prometheus.yml"


def get(port: int, path: str) -> tuple[int, str]:
    """Return the status and the text of an answer; (0, "") if there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def families(port: int) -> list[Metric]:
    """Return the metrics of a script."""
    return list(text_string_to_metric_families(get(port, "/metrics")[1]))


def samples(port: int) -> dict[str, float]:
    """Return the values of a script's metrics that have no labels, by the names of the samples."""
    found = (sample for family in families(port) for sample in family.samples)
    return {sample.name: sample.value for sample in found if not sample.labels}


class Prometheus:
    """A running Prometheus."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str, **parameters: str) -> dict:
        """Return the data of an answer of its HTTP API; AssertionError if it is an error."""
        status, text = get(self.port, f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        assert status == 200, text
        return json.loads(text)["data"]

    def series(self, query: str) -> list[dict]:
        """Return the series that a query has now."""
        return self.ask("query", query=query)["result"]

    def rules(self) -> dict[str, str]:
        """Return the query of each alert rule by its name."""
        groups = self.ask("rules")["groups"]
        return {rule["name"]: rule["query"] for group in groups for rule in group["rules"]}


@contextmanager
def running_prometheus(folder: Path, targets: dict[str, str]) -> Iterator[Prometheus]:
    """Run Prometheus with the project's configuration, twice a second instead of every 5 seconds.

    targets : what to scrape instead of each target of the configuration.
    """
    config, port = CONFIG.read_text(), free_port()
    for old, new in targets.items():
        assert old in config
        config = config.replace(old, new)
    config = config.replace("interval: 5s", "interval: 500ms").replace(
        "timeout: 4s", "timeout: 500ms"
    )
    config = config.replace("interval: 15s", "interval: 1s")
    config = config.replace("rules.yml", str(CONFIG.with_name("rules.yml")))
    (folder / "prometheus.yml").write_text(config)
    command = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=prometheus"]
    with open(folder / "prometheus.log", "wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], cwd=folder, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: get(port, "/-/ready")[0] == 200, what="Prometheus is ready")
        yield Prometheus(port)
    finally:
        process.kill()
        process.wait()
