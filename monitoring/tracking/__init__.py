"""Logs trainings, models and live figures to MLflow, in a process of its own."""
