"""MLFLOW_TRACKING_URI: what it may be, and why what it names can't be used, in a sentence."""

import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from urllib.parse import urlsplit

from utils.settings import settings

OFF = "none"  # a value of the setting
SERVERS = ("http", "https")
DATABASES = ("postgresql", "mysql", "mssql")
_DATABRICKS = ("databricks", "databricks-uc", "uc")
_EXPECTED = "expected the address of a server, http://HOST:PORT, of a database, sqlite:///FILE, or "
_LOGIN = "it needs a login, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD or _TOKEN"
MOST = 150  # characters of an error that is not known here


def check_address() -> None:
    """SystemExit with a sentence if the setting can't be anything that MLflow can use."""
    uri = settings.mlflow_tracking_uri
    scheme, colon, rest = uri.partition(":")
    own = entry_points(group="mlflow.tracking_store")  # of plugins
    if uri in ("", OFF, *_DATABRICKS) or scheme in {*_DATABRICKS, *(each.name for each in own)}:
        return
    is_known = scheme in SERVERS or scheme.partition("+")[0] in (*DATABASES, "sqlite")
    if not (is_known and rest.startswith("//") and _has_place(scheme, uri)):
        shown = f"{scheme}{colon}…" if rest else scheme  # the rest may contain a password
        raise SystemExit(f"MLFLOW_TRACKING_URI: {_EXPECTED}{OFF} (it is {shown[:80]!r})")


def _has_place(scheme: str, uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return bool(parts.hostname and parts.port != 0) or scheme not in SERVERS
    except ValueError:  # the port is no number, an IPv6 address has no end
        return False


def reason(error: Exception) -> str:
    """Return in one line why MLflow could not be used; of a server, in words."""
    uri = settings.mlflow_tracking_uri
    if not uri:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:MOST]}"
    return f"MLFLOW_TRACKING_URI: {_place(uri)}: {_why(error)}"


def _place(uri: str) -> str:
    """Return the address without what may be a secret."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else parts.scheme


def _why(error: Exception) -> str:
    chain = list(_chain(error))
    network = next((each for each in chain if isinstance(each, TimeoutError)), None) or chain[-1]
    text = " ".join(str(error).split())
    if isinstance(network, TimeoutError) or "timed out" in str(chain[-1]):
        return "no answer in time"
    if isinstance(network, OSError) and network.strerror:
        return f"no answer: {network.strerror}"
    if status := re.search(r"failed with error code (\d+)", text):
        return _LOGIN if status[1] in ("401", "403") else f"no MLflow server (status {status[1]})"
    if "Expecting value" in str(chain[-1]) or "not in a valid JSON format" in text:
        return "no MLflow server: what it answers is no JSON"
    text = " ".join(str(getattr(error, "orig", None) or error).split())  # orig: of a driver
    return text.replace(settings.mlflow_tracking_uri, "it")[:MOST]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from, the first cause last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
