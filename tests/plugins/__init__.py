"""Plugins, each against its real host where that can be installed."""
