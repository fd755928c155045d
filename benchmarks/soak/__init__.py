"""Ten minutes of load with a fault every 20 s; ``python -m benchmarks.soak``."""
