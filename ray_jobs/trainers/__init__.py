"""Training code. A trainer is one function: a `TrainingRun` in, a `TrainedModel` out."""
