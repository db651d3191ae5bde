"""Hostile input and load in quantity; not part of the default run."""
