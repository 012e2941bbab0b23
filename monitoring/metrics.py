"""Metrics of a script for Prometheus, and its health: an HTTP server if METRICS_PORT is set.

Without that setting nothing of it is imported.
"""

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
        from monitoring.endpoint import start
        from monitoring.exposition import Exposition
    except ImportError:
        package = "prometheus_client: pip install -r requirements-monitoring.txt"
        raise SystemExit(f"METRICS_PORT: needs {package}") from None
    place = settings.listen_host, settings.metrics_port
    exposition = Exposition(script)
    try:
        start(place, exposition)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no host can have
        reason = getattr(error, "strerror", None) or error
        why = f"METRICS_PORT={place[1]}: can't listen on LISTEN_HOST={place[0]}: {reason}"
        if not was_restarted():
            raise SystemExit(f"{why}; each script needs a port of its own") from None
        warn(f"{why}; going on without metrics.")
    else:
        say(f"Metrics of {script} are at http://{place[0]}:{place[1]}/metrics")
    return exposition.show
