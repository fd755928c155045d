"""The bundled cloud model, asked once for each request whatever the run: its answers are kept in a file."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

from actors.engine import Completion, Generation, LoadReport, Prompt, Sampling
from actors.engine_settings import LocalSettings
from actors.vllm_engine import VllmEngine
from policies.errors import EngineError
from policies.toolcalls import compact


class RememberedCloud:
    """An ``Engine`` that greedily answers a prompt it was asked before from ``path``, at once.

    Args:
        model: the cloud model's directory; it is loaded when the first unknown prompt comes.
        path: JSON lines, one an answer; other processes may append at the same time.
    """

    def __init__(self, model: Path, path: Path) -> None:
        self._model, self._path = model, path
        self._engine: asyncio.Task[VllmEngine] | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._known: dict[str, dict[str, Any]] = {row["key"]: row for row in map(json.loads, lines)}

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """The answer, from the file or the model."""
        key = hashlib.sha256(compact([list(prompt.messages), list(prompt.tools)]).encode()).hexdigest()[:32]
        if key not in self._known:
            self._engine = self._engine or asyncio.create_task(self._start())
            made = await (await self._engine).generate(prompt, sampling)
            self._keep(key, made)
        row = self._known[key]
        answer = Completion(row["text"], (), "stop", row["tokens"])
        return Generation((answer,), row["prompt_tokens"], "cloud", 0.0, up_bytes=1, down_bytes=1)

    async def load(self, path: Path, version: str) -> LoadReport:  # noqa: ARG002
        raise EngineError("the cloud's weights are not changed here")

    async def close(self) -> None:
        if self._engine is not None:
            await (await self._engine).close()

    async def _start(self) -> VllmEngine:
        engine = VllmEngine(self._model, "cloud", LocalSettings(threads=1))
        await engine.setup()
        return engine

    def _keep(self, key: str, made: Generation) -> None:
        first = made.completions[0]
        row = {"key": key, "text": first.text, "tokens": first.tokens, "prompt_tokens": made.prompt_tokens}
        self._known[key] = row
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
