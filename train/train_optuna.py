"""Tune LightGBM with Optuna's TPE.

A search on the same data as an earlier one continues its study: Optuna learns from the losses that
are there. Points of other data or of Hyperopt are evaluated again.
"""

import optuna
from optuna.trial import TrialState

from train.optimizer import BaseOptimizer
from train.trials import as_dict, as_frozen, distributions


class LGBOptimizer(BaseOptimizer):
    """Find good hyperparameters with Optuna, and fit LightGBM with them; see BaseOptimizer."""

    hyper = "optuna"

    def search(self, max_evals: int, points: list[dict]) -> None:
        """Evaluate the points that were not evaluated before, then those that Optuna suggests."""
        # In memory: a store that fails in the middle of a search must not end it.
        study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(
                n_startup_trials=len(points) + max_evals // 5,
                # The same seed must not draw the points of earlier searches again.
                seed=self.seed + self.store.last_trial(),
            )
        )
        study.add_trials(self.store.own_trials())
        complete = study.get_trials(states=[TrialState.COMPLETE])
        self.past_trials = [as_dict(trial) for trial in complete]
        for point in points:
            study.enqueue_trial(point, skip_if_exists=True)
        while len(self.trials) < max_evals and (not self.trials or self.seconds_left() > 0):
            self._evaluate_next(study)

    def _evaluate_next(self, study: optuna.Study) -> None:
        suggested = study.ask(distributions())
        trial = self.run_trial(suggested.params)
        if trial["pruned"]:  # its value is the last one reported
            suggested.report(trial["penalized_loss"], trial["rounds"])
            study.tell(suggested, state=TrialState.PRUNED)
        else:
            study.tell(suggested, trial["penalized_loss"])
        self.store.add(as_frozen(trial, self.libraries()))
