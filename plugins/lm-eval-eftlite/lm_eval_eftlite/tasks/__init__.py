"""Tasks of the harness on the bundled family's own questions; nothing is downloaded for them."""
