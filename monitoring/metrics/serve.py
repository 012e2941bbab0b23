"""Metrics of a script for Prometheus, and its health: an HTTP server if METRICS_PORT is set.

Without that setting nothing of it is imported.
"""

import errno
from collections.abc import Callable

from monitoring.snapshot import Snapshot
from utils.console import say, warn
from utils.process import was_restarted
from utils.settings import settings


def serve_metrics(script: str) -> Callable[[Snapshot, object], None]:
    """Serve /metrics, /healthz and /readyz in a thread of this process, if METRICS_PORT is set.

    script : its name in the metrics. Returns what takes the monitor's snapshots, to be called with
    each new one. SystemExit if the port can't be used; a script that has restarted itself goes on
    without metrics.
    """
    if not settings.metrics_port:
        return lambda snapshot, histories: None
    try:
        from monitoring.metrics.endpoint import start
        from monitoring.metrics.exposition import Exposition
    except ModuleNotFoundError:
        package = "prometheus_client: pip install -r requirements-monitoring.txt"
        raise SystemExit(f"METRICS_PORT: needs {package}") from None
    host, port, exposition = settings.listen_host, settings.metrics_port, Exposition(script)
    try:
        start((host, port), exposition)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no host can have
        why = _why_not(f"METRICS_PORT={port}: can't listen on LISTEN_HOST={host}", error)
        if not was_restarted():
            raise SystemExit(why) from None
        warn(f"{why}. Going on without metrics.")
    else:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        say(f"Metrics of {script} are at http://{address}/metrics")
    return exposition.show


def _why_not(what: str, error: Exception) -> str:
    if getattr(error, "errno", None) == errno.EADDRINUSE:
        return f"{what}: the port is in use, each script needs its own"
    return f"{what}: {getattr(error, 'strerror', None) or error}"
