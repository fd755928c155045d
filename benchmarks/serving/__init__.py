"""What a site costs between a client and its models, beside other gateways: ``python -m benchmarks.serving``."""
