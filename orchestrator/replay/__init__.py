"""``netgpt replay``: what other policies would have earned on the requests of an offload log.

``reading`` turns the log into arrays, ``rules`` names policies, ``results`` evaluates them (``policies.replay``,
``policies.advantage``), ``suggest`` searches for a target, ``tables`` and ``frontier`` show; ``command`` is the whole.
"""
