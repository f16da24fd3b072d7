"""A trained checkpoint in use: load, predict, evaluate, pipelines."""
