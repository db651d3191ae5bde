"""``python -m eftlite``."""

from eftlite.cli import main

main()
