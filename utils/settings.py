"""All settings of the pipeline: environment variables, one table, checked once at the start.

    RETRAIN_EVERY=100 python predictor.py

A wrong value stops the program at once with one sentence that names the variable.
"""

import re
import sys
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent


def _check_hosts(hosts: str) -> str:
    for host in hosts.split(","):
        if not re.fullmatch(r"[^\s:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", host.strip()):
            raise ValueError("expected host:port[,host:port ...]")
    return hosts


def _from_root(folder: Path) -> Path:
    return ROOT / folder


# What Kafka allows in the names that these settings become part of (topics, group members).
KafkaName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$", max_length=200)]
Folder = Annotated[Path, AfterValidator(_from_root)]


class Settings(BaseSettings):
    """The settings, named as the environment variables in capitals; see the README's table."""

    model_config = SettingsConfigDict(env_ignore_empty=True, frozen=True, validate_default=True)

    kafka_host: Annotated[str, AfterValidator(_check_hosts)] = Field(
        "localhost:9092", description="Kafka's bootstrap servers, host:port, separated by commas"
    )
    retrain_every: int = Field(
        25, gt=0, description="requests, and outcomes, after which the model is retrained"
    )
    extra_models_to_keep: int = Field(
        1, ge=0, description="older models kept in MODELS_DIR beside the champion"
    )
    partitions: int = Field(
        1, gt=0, description="partitions of app_messages, when the topic has to be created"
    )
    predictor_id: Annotated[KafkaName, Field(min_length=1)] = Field(
        "predictor-0", description="name of this predictor; each running one needs its own"
    )
    topic_prefix: KafkaName = Field(
        "", description="put before every topic, group and transactional id: pipelines side by side"
    )
    data_dir: Folder = Field(
        Path("data"), description="original data, the trainer's store, the trail of experiments"
    )
    models_dir: Folder = Field(Path("models"), description="models, their cards, the champion")
    broker_timeout: float = Field(
        60, gt=0, description="seconds that a script waits for Kafka before it gives up"
    )


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
        name = str(problem["loc"][0]).upper() if problem["loc"] else "settings"
        text = _PLAIN.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        sys.exit(f"{name}: {text[0].lower()}{text[1:]} (it is {str(problem['input'])[:80]!r})")


settings = load()
