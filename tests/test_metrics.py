"""METRICS_PORT: what a script shows to Prometheus, and when it is alive, ready or stuck."""

import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from monitoring import endpoint
from tests.harness.pipeline import wait_until
from tools.local_kafka import free_port
from utils.files import ROOT
from utils.process import Health


def get(port: int, path: str = "/metrics", host: str = "127.0.0.1") -> tuple[int, str]:
    """Return the status and the text of an answer."""
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metrics(port: int) -> dict[str, float]:
    """Return all samples without labels by their names."""
    families = text_string_to_metric_families(get(port)[1])
    return {s.name: s.value for family in families for s in family.samples if not s.labels}


@pytest.mark.parametrize("script", ["predictor", "trainer", "sample_app", "initialize"])
def test_without_a_port_nothing_of_it_is_imported(script):
    code = f"""
import sys
import {script}
from monitoring.metrics import serve_metrics
serve_metrics("{script}")
wrong = {{"prometheus_client", "http.server", "monitoring.endpoint"}} & set(sys.modules)
sys.exit(f"imported: {{wrong}}" if wrong else 0)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
