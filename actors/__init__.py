"""Plain classes with state and I/O, each usable and tested without Ray."""
