"""The bundled family: GGUF files, its questions, and how answers are scored."""
