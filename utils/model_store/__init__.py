"""The models: on disk, in memory, and how a running predictor changes from one to the next."""
