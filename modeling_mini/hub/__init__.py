"""Sharing a model: push, verify, upgrade, and its model card."""
