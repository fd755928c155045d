"""An edge model that improves from its site's offload log alone: over rounds, against other ways to learn, and after a
shift of what is asked. ``python -m benchmarks.learning``.
"""
