"""``python -m benchmarks.routing``: thresholds, early decisions, guarantees and budgets on real outputs."""
