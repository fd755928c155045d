"""A chat completion that arrives in parts: from an endpoint's chunks to the completion they add up to.

Prose is handed on as it comes, a tool call when the next begins or the answer ends, in the syntax of
``policies.toolcalls``. ``RemoteEngine`` drives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.engine import Hear

Json = Mapping[str, Any]


class Assembly:
    """The completion object so far.

    Args:
        hear: gets every part of the text.
        spell: an OpenAI tool call as text.
    """

    def __init__(self, hear: Hear, spell: Any) -> None:
        self._hear, self._spell = hear, spell
        self._content: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._tokens: list[Any] = []
        self._told = 0  # calls that were handed on
        self._finish: str | None = None
        self._usage: Json = {}
        self._model: str | None = None
        self.heard = False

    async def take(self, chunk: Json) -> None:
        """One chunk; raises what reading JSON of an unknown form raises (``endpoint.MALFORMED``)."""
        self._model = chunk.get("model") or self._model
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            self._finish = choice.get("finish_reason") or self._finish
            self._tokens += (choice.get("logprobs") or {}).get("content") or ()
            delta = choice.get("delta") or {}
            if content := delta.get("content"):
                if not isinstance(content, str):
                    raise TypeError(f"content is {content!r}")
                self._content.append(content)
                await self._say(content)
            for part in delta.get("tool_calls") or ():
                await self._take_call(part)

    async def end(self) -> dict[str, Any]:
        """The whole object, as an answer in one piece would have been."""
        await self._tell(len(self._calls))
        calls = [{"function": call} for call in self._calls.values()]
        message = {"content": "".join(self._content), "tool_calls": calls}
        choice = {"message": message, "finish_reason": self._finish, "logprobs": {"content": self._tokens}}
        return {"model": self._model, "usage": self._usage, "choices": [choice]}

    async def _take_call(self, part: Json) -> None:
        index, function = int(part.get("index") or 0), part.get("function") or {}
        if index not in self._calls:
            await self._tell(len(self._calls))
            self._calls[index] = {"name": "", "arguments": ""}
        call = self._calls[index]
        call["name"] += function.get("name") or ""
        call["arguments"] += function.get("arguments") or ""

    async def _tell(self, count: int) -> None:
        """Hand on the first ``count`` calls, which are whole."""
        for call in list(self._calls.values())[self._told : count]:
            self._told += 1
            await self._say(self._spell({"function": call}))

    async def _say(self, text: str) -> None:
        self.heard = True
        await self._hear(text)
