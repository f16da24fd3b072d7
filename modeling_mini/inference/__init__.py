"""Use a trained checkpoint: load it, predict, evaluate, and run pipelines."""
