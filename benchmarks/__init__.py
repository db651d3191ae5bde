"""Side by side with peers, one command each: ``python -m benchmarks.step`` and so on; see README.md."""
