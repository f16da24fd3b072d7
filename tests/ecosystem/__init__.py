"""Tests of the tools around the model (`make ecosystem`); a package, so that its conftest has a name of its own."""
