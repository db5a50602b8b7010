"""Training: configuration, loop, adaptive local rate, checkpoints, the record of a run."""
