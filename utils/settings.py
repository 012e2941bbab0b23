"""All settings of the pipeline: environment variables, checked once when a script starts.

    RETRAIN_EVERY=100 python predictor.py

A wrong value stops the program at once with one sentence that names the variable.
"""

import re
import sys
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from utils.files import ROOT


def _check_hosts(hosts: str) -> str:
    for host in hosts.split(","):
        if not re.fullmatch(r"[^\s:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", host.strip()):
            raise ValueError("expected host:port[,host:port ...]")
    return hosts


def _check_kept(kept: str) -> str:
    if not re.fullmatch(r"all|0*[1-9]\d{0,17}d?", kept):
        raise ValueError("expected all, a number of rows like 1000000, or of days like 365d")
    return kept


def _from_root(folder: Path) -> Path:
    return ROOT / folder


def _check_place(place: Path | str) -> Path | str:
    """Return a folder, or the URL of a prefix in an object store; it can't hold a password."""
    text = str(place)
    if "://" not in text and not re.match("(s3|gs|az):", text):
        return ROOT / text
    if not re.fullmatch(r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._=-]+)*/?", text):
        raise ValueError("expected a folder, or s3://bucket/prefix (also gs://, az://)")
    return text.rstrip("/")


def _check_key(secret: SecretStr) -> SecretStr:
    if 0 < len(secret.get_secret_value()) < 32:
        raise ValueError("expected at least 32 characters; make one: openssl rand -base64 32")
    return secret


def _check_text(secret: SecretStr) -> SecretStr:
    try:
        secret.get_secret_value().encode()
    except UnicodeError:
        raise ValueError("expected UTF-8") from None
    return secret


_URL = r"(postgresql://([^@/?#\s]*@)?[^@/?#\s]*(/[^@/?#\s]*)?(\?\S*)?)?"


def _check_url(url: SecretStr) -> SecretStr:
    """Return the URL; libpq's other name of the scheme, postgres://, is replaced."""
    text = re.sub("^postgres://", "postgresql://", url.get_secret_value())
    if not re.fullmatch(_URL, text):
        raise ValueError(
            "expected postgresql://user:password@host/database, with %40 for an @ in the password, "
            "%2F for a /, and so on"
        )
    return SecretStr(text)


def _find_file(name: str) -> str:
    if name and not (ROOT / name).is_file():
        raise ValueError("there is no such file")
    return str(ROOT / name) if name else ""


# What Kafka allows in the names that these settings become part of (topics, group members).
KafkaName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$", max_length=200)]
Folder = Annotated[Path, AfterValidator(_from_root)]
File = Annotated[str, AfterValidator(_find_file)]
Secret = Annotated[SecretStr, AfterValidator(_check_text)]
Key = Annotated[SecretStr, AfterValidator(_check_text), AfterValidator(_check_key)]
Place = Annotated[str | Path, AfterValidator(_check_place)]

# The files of utils/datasets/ that DATASET may name; the first one is the default.
DATASETS = (
    "adult",
    "shop",
    "diabetes",
)

_PROTOCOL = "KAFKA_SECURITY_PROTOCOL"

# What has an effect only where KAFKA_SECURITY_PROTOCOL has this in its name.
_ONLY_WITH = {
    "SASL": ("kafka_username", "kafka_password"),
    "SSL": ("kafka_ca_file", "kafka_certificate_file", "kafka_key_file", "kafka_key_password"),
}


class Settings(BaseSettings):
    """The settings, named as the environment variables in capitals; see docs/settings.md."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True, frozen=True, validate_default=True, hide_input_in_errors=True
    )

    kafka_host: Annotated[str, AfterValidator(_check_hosts)] = Field(
        "localhost:9092", description="Kafka's bootstrap servers, host:port, separated by commas"
    )
    dataset: Literal[DATASETS] = Field(
        DATASETS[0],
        description="the data set, a file of `utils/datasets/`; with NAME, any other than the "
        "default, TOPIC_PREFIX is NAME-, DATA_DIR data/NAME and MODELS_DIR models/NAME, unless set",
    )
    retrain_every: int = Field(
        25, gt=0, description="requests, and known outcomes, after which the model is retrained"
    )
    extra_models_to_keep: int = Field(
        1,
        ge=0,
        description="older models to keep beside the champion, the anchor and the last rejected "
        "one",
    )
    train_window: int = Field(
        0, ge=0, description="newest rows to use, a tenth of them for the judge; 0: all"
    )
    max_categories: int = Field(
        1000, gt=0, description="categories to learn per column; rarer ones count as unknown"
    )
    model_cost: Literal["low", "any"] = Field(
        "low",
        description="low: models that gain nothing for what a prediction costs are avoided; any: "
        "the lowest log loss, whatever it costs",
    )
    trials_keep: int = Field(10_000, gt=0, description="newest trials of tuning to keep")
    promote: Literal["unless-worse", "always"] = Field(
        "unless-worse", description="when a new model replaces the champion: unless-worse or always"
    )
    outcome_days: float = Field(
        90,
        gt=0,
        description="days after which unmatched requests and outcomes are deleted",
    )
    observations_keep: Annotated[str, AfterValidator(_check_kept)] = Field(
        "all",
        description="observations to keep: all, the newest rows (1000000) or days (365d)",
    )
    observations_url: Annotated[SecretStr, AfterValidator(_check_url)] = Field(
        SecretStr(""),
        description="PostgreSQL for the observations: postgresql://user:password@host/database; "
        "empty: a SQLite file in DATA_DIR",
    )
    partitions: int = Field(
        1, gt=0, description="partitions of app_messages, if the topic has to be created"
    )
    replication: int = Field(
        0,
        ge=0,
        le=32_767,  # what the protocol allows
        description="brokers that have a copy of each topic that is created; 0: as many as there "
        "are, at most 3",
    )
    predictor_id: Annotated[KafkaName, Field(min_length=1)] = Field(
        "predictor-0", description="name of this predictor, unique among the running ones"
    )
    topic_prefix: KafkaName = Field(
        "",
        description="prefix of all topics, groups and transactional ids, for several pipelines on "
        "one Kafka; each needs its own DATA_DIR and MODELS_DIR",
    )
    data_dir: Folder = Field(
        Path("data"), description="original data, observations, trials of tuning"
    )
    models_dir: Place = Field(
        "models",
        description="models, their cards, the name of the champion: a folder, or "
        "s3://bucket/prefix (also gs://, az://; see docs/cluster.md)",
    )
    models_key: Key = Field(
        SecretStr(""),
        description="key that signs the models' cards; with it, models that are not signed with it "
        "are refused",
    )
    listen_host: str = Field(
        "127.0.0.1", description="address on which the monitor's page and /metrics are served"
    )
    monitor_port: int = Field(
        8501, ge=0, lt=65536, description="port of the monitor's page; 0: no page"
    )
    metrics_port: int = Field(
        0,
        ge=0,
        lt=65536,
        description="port of /metrics, /healthz and /readyz; each script needs its own; 0: none",
    )
    alert_rules: File = Field(
        "monitoring/alerts.toml", description="the rules of the monitor's alerts"
    )
    retrain_on_drift: bool = Field(
        False, description="1: the monitor asks for a training when it finds a drift"
    )
    audit_days: float = Field(
        90, gt=0, description="days for which messages and replaced models are kept for an audit"
    )
    audit_requests: int = Field(
        1_000_000,
        ge=0,
        description="newest requests whose messages the monitor keeps for an audit; 0: none",
    )
    audit_models: int = Field(
        1_000, ge=0, description="newest replaced models that are kept, compressed, for an audit"
    )
    mlflow_tracking_uri: str = Field(
        "",
        description="MLflow's tracking server; empty: a SQLite file in DATA_DIR, if MLflow is "
        "installed; none: the monitor logs nothing",
    )
    broker_timeout: float = Field(
        60,
        gt=0,
        description="seconds that a starting script waits for Kafka, PostgreSQL or an object store",
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT",
        description="PLAINTEXT, SSL (encrypted), SASL_PLAINTEXT (login) or SASL_SSL (both)",
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="login mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
    )
    kafka_username: str = Field("", description="user name of the login")
    kafka_password: Secret = Field(SecretStr(""), description="password of the login")
    kafka_ca_file: File = Field(
        "", description="PEM file of trusted CA certificates, instead of the system's"
    )
    kafka_certificate_file: File = Field(
        "", description="PEM file of the client certificate, if Kafka asks for one"
    )
    kafka_key_file: File = Field(
        "", description="PEM file of the client key, if the certificate file lacks it"
    )
    kafka_key_password: Secret = Field(SecretStr(""), description="password of the client key")

    @model_validator(mode="before")
    @classmethod
    def _separate(cls, given: dict) -> dict:
        """Give each data set but the first its own topics and folders by default."""
        name = given.get("dataset", DATASETS[0])
        if name == DATASETS[0]:
            return given
        own = {
            "topic_prefix": f"{name}-",
            "data_dir": f"data/{name}",
            "models_dir": f"models/{name}",
        }
        return own | given

    @property
    def observations_kept(self) -> tuple[int | None, float | None]:
        """OBSERVATIONS_KEEP as (rows, seconds), each None if it is not what limits them."""
        kept = self.observations_keep
        if kept == "all":
            return None, None
        return (None, int(kept[:-1]) * 86_400) if kept.endswith("d") else (int(kept), None)

    @model_validator(mode="after")
    def _check_security(self) -> Self:
        """A security setting without effect is an error: its user would rely on it."""
        protocol = self.kafka_security_protocol
        for part, names in _ONLY_WITH.items():
            for name in names:
                given = bool(str(getattr(self, name)))
                if given and part not in protocol:
                    raise ValueError(f"{name.upper()}: no effect with {_PROTOCOL}={protocol}")
                if not given and part == "SASL" and part in protocol:
                    raise ValueError(f"{name.upper()}: {_PROTOCOL}={protocol} needs it")
        key = self.kafka_key_file or str(self.kafka_key_password)
        if key and not self.kafka_certificate_file:
            raise ValueError("KAFKA_CERTIFICATE_FILE: the key is given, the certificate is not")
        return self


# pydantic's kinds of errors, in words for people who do not know pydantic.
_PLAIN = {
    "string_pattern_mismatch": "expected letters, digits, '.', '_' and '-' only",
    "int_parsing": "expected a whole number",
    "float_parsing": "expected a number",
}


def load() -> Settings:
    """Read the settings from the environment; SystemExit with one sentence on a wrong value."""
    try:
        return Settings()
    except ValidationError as error:
        problem = error.errors()[0]
        text = _PLAIN.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        if not problem["loc"]:  # about several settings; the input is all of them
            sys.exit(text)
        name = str(problem["loc"][0])
        secret = Settings.model_fields[name].annotation is SecretStr
        if name == "dataset" and (ROOT / f"utils/datasets/{problem['input']}.py").exists():
            text = f"add {problem['input']!r} to DATASETS in utils/settings.py"
        value = "" if secret else f" (it is {str(problem['input'])[:80]!r})"
        sys.exit(f"{name.upper()}: {text[0].lower()}{text[1:]}{value}")


settings = load()
