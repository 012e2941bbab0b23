"""Tune LightGBM with Optuna's TPE.

A search on the same data as an earlier one continues its study: Optuna learns from the losses that
are there. Points of other data or of Hyperopt are evaluated again.
"""

import optuna
from optuna.trial import TrialState

from train.optimizer import BaseOptimizer
from train.trials import MEASURED, as_dict, distributions


class LGBOptimizer(BaseOptimizer):
    """Find good hyperparameters with Optuna, and fit LightGBM with them; see BaseOptimizer."""

    hyper = "optuna"

    def search(self, max_evals: int, points: list[dict]) -> None:
        """Evaluate the points that the study does not have, then those that Optuna suggests."""
        self.study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=len(points) + max_evals // 5,
            # The same seed must not draw the points of earlier searches again.
            seed=self.seed + len(self.study.trials),
        )
        complete = self.study.get_trials(states=[TrialState.COMPLETE])
        self.past_trials = [as_dict(trial) for trial in complete]
        for point in points:
            self.study.enqueue_trial(point, skip_if_exists=True)
        while len(self.trials) < max_evals and (not self.trials or self.seconds_left() > 0):
            self._evaluate_next()

    def _evaluate_next(self) -> None:
        suggested = self.study.ask(distributions())
        trial = self.run_trial(suggested.params)
        for name in MEASURED:
            suggested.set_user_attr(name, trial[name])
        suggested.set_user_attr("libraries", self.libraries())
        if trial["pruned"]:  # its value is the last one reported
            suggested.report(trial["loss"], trial["rounds"])
            self.study.tell(suggested, state=TrialState.PRUNED)
        else:
            self.study.tell(suggested, trial["loss"])
