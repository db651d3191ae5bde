"""Experiments: how the bundled family is trained, and what is measured on it."""
