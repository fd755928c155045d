"""Python's collector in a process that serves: what stands when it begins to serve is not looked at again.

Without this a full collection walks over every object of torch, Ray and vLLM, some hundred thousand, and all requests
wait for it: up to 90 ms, several times a second under load.
"""

from __future__ import annotations

import gc

YOUNG = 10_000  # new objects between two collections; a request makes some hundred, nearly all of them without cycles


def settle() -> None:
    """To be called once a process has loaded all it serves with."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 20)
