"""The aliases of a registered model, and when each version was the champion.

`champion` is the version that answers requests. `challenger` is the version of the newest model
that the judge has rejected. Aliases have no history in MLflow: each time that a version becomes the
champion it gets a tag with the date.
"""

from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from utils.model_store.card import Card

CHAMPION, CHALLENGER = "champion", "challenger"


def identity(card: Card) -> dict[str, str]:
    """Return the tags of a model's run and version; its id alone may be that of several models."""
    digest, created = card.digest, card.created
    return {"model_id": str(card.model_id), "model_digest": digest, "model_created": created}


def with_tags(tags: dict[str, str]) -> str:
    """Return MLflow's filter for what has these tags."""
    return " and ".join(f"tags.{name} = '{value}'" for name, value in tags.items())


class Versions:
    """The versions of a registered model."""

    def __init__(self, client: MlflowClient, name: str) -> None:
        self.client, self.name = client, name

    def of(self, card: Card) -> ModelVersion | None:
        """Return the newest version of a model; None if it has none."""
        wanted = f"name = '{self.name}' and {with_tags(identity(card))}"
        found = self.client.search_model_versions(wanted, max_results=100)
        return max(found, key=lambda each: int(each.version), default=None)

    def note_champion(self, card: Card, since: float) -> None:
        """Note that a model has been the champion since then (seconds since 1970)."""
        if version := self.of(card):
            time = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            self.client.set_model_version_tag(
                self.name, version.version, f"champion {time}", f"model {card.model_id}"
            )

    def set_aliases(self, champion: Card | None, rejected: Card | None) -> list[str]:
        """Give the aliases to the versions of these models; return those that are deleted.

        An alias whose model has no version is deleted: it would name another model.
        """
        models = self.client.search_registered_models(f"name = '{self.name}'")
        before, deleted = models[0].aliases if models else {}, []
        for alias, card in ((CHAMPION, champion), (CHALLENGER, rejected)):
            version = card and self.of(card)
            if version and str(before.get(alias)) != str(version.version):
                self.client.set_registered_model_alias(self.name, alias, version.version)
            if not version and alias in before:
                self.client.delete_registered_model_alias(self.name, alias)
                deleted.append(alias)
        return deleted
