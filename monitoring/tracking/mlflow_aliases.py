"""The aliases of a registered model, and when each version was the champion.

`champion` is the version that answers requests. `challenger` is the version of the newest model
that the judge has rejected. Aliases have no history in MLflow: each time that a version becomes the
champion it gets a tag with the date.
"""

from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"


class Versions:
    """The versions of a registered model, by the id of the pipeline's model."""

    def __init__(self, client: MlflowClient, name: str) -> None:
        self.client, self.name = client, name

    def of(self, model_id: int) -> ModelVersion | None:
        """Return the newest version of a model; None if it has none."""
        wanted = f"name = '{self.name}' and tags.model_id = '{model_id}'"
        found = self.client.search_model_versions(wanted, max_results=100)
        return max(found, key=lambda each: int(each.version), default=None)

    def note_champion(self, model_id: int, since: float) -> None:
        """Note that a model has been the champion since then (seconds since 1970)."""
        if version := self.of(model_id):
            time = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            self.client.set_model_version_tag(
                self.name, version.version, f"champion {time}", f"model {model_id}"
            )

    def set_aliases(self, champion: int | None, rejected: int | None) -> None:
        """Give the aliases to the versions of these models, unless they have them."""
        models = self.client.search_registered_models(f"name = '{self.name}'")
        before = models[0].aliases if models else {}
        for alias, model_id in ((CHAMPION, champion), (CHALLENGER, rejected)):
            version = None if model_id is None else self.of(model_id)
            if version and str(before.get(alias)) != str(version.version):
                self.client.set_registered_model_alias(self.name, alias, version.version)
