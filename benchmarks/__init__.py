"""Measurements, one file a claim: ``python -m benchmarks.NAME [--quick] --out FILE.json``; the form is ``figures``."""
