"""Serve a trained checkpoint to people and to programs."""
