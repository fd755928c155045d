"""Tells Ray's LLM app that a model directory needs no download, which saves it a process that imports vLLM.

Loaded by name in the replica (``callback_config`` of an ``LLMConfig``); the base class is the one Ray's guide on
deployment initialisation names.
"""

from __future__ import annotations

from ray.llm._internal.common.callbacks.base import CallbackBase


class LocalModel(CallbackBase):  # type: ignore[misc]  # Ray ships no types for it
    """Skips the preparation of nodes."""

    async def on_before_node_init(self) -> None:
        """Ray's hook before it would fetch the model."""
        self.ctx.run_init_node = False
