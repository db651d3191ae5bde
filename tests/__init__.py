"""Tests mirror the package file for file; none needs the network."""
