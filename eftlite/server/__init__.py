"""The local server: an OpenAI-compatible interface, a page, and the engine in a child process."""
