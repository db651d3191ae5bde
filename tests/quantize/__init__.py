"""Tests of quantize/, file for file."""
