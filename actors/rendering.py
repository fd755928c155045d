"""From OpenAI messages to the token ids a local model reads.

Shared by the engines that hold weights (``vllm_engine``, ``transformers_engine``), so both read the same
prompt: the model directory's own chat template, tools included, generation prompt added, then the prefill.
``model_directory`` turns a path or a Hugging Face id into a directory; ``Renderer`` does the rest.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoConfig, AutoTokenizer

from actors.engine import Message, Prompt
from policies.errors import BadRequest, ContextTooLong, EngineError

# Qwen3 and its kin think aloud by default; an edge draft has no time for it. Templates ignore what they do not know.
TEMPLATE_OPTIONS = {"enable_thinking": False}

# Characters from which a thread renders: about 5 ms of work, where handing it over costs 0.1 ms.
LONG_TEXT = 20_000


class Renderer:
    """The tokenizer and chat template of one model directory.

    Args:
        directory: a Hugging Face model directory.
        context: tokens that prompt and answer may take together; None takes the model's own limit.

    Raises:
        EngineError: no readable config or tokenizer, or it has no chat template.
    """

    def __init__(self, directory: Path, context: int | None) -> None:
        self.context = context or _context(directory)
        self.tokenizer = _tokenizer(directory)

    async def render_aside(self, prompt: Prompt, max_tokens: int) -> list[int]:
        """``render`` for an event loop, which a long prompt does not hold up.

        The answer may take up to ``max_tokens``, and takes less where the prompt leaves less.
        """
        room = min(max_tokens, 1)
        if sum(len(str(message.get("content"))) for message in prompt.messages) < LONG_TEXT:
            return self.render(prompt, room)
        return await asyncio.to_thread(self.render, prompt, room)

    def render(self, prompt: Prompt, room: int) -> list[int]:
        """Token ids of ``prompt``, prefill last, with ``room`` tokens left for an answer.

        Raises:
            BadRequest: a message the template cannot render, or ``ContextTooLong``.
        """
        ids = self._encode(self._text(prompt)) + self._encode(prompt.prefill)
        if len(ids) + room > self.context:
            raise ContextTooLong(len(ids), room, self.context)
        return ids

    def _text(self, prompt: Prompt) -> str:
        messages = [template_message(i, message) for i, message in enumerate(prompt.messages)]
        tools = [dict(tool) for tool in prompt.tools] or None
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tools=tools, add_generation_prompt=True, tokenize=False, **TEMPLATE_OPTIONS
            )
        except (TemplateError, LookupError, TypeError, AttributeError, ValueError) as why:
            raise BadRequest(f"the model's chat template cannot render this: {why}", "messages") from why
        return str(text)

    def _encode(self, text: str) -> list[int]:
        # The template has written every special token the model wants.
        return list(self.tokenizer(text, add_special_tokens=False).input_ids) if text else []


def model_directory(source: str | Path) -> Path:
    """The directory of a model given as a path, or as a Hugging Face id (downloaded once, then cached).

    Raises:
        EngineError: there is no such directory, or the hub does not give it; names ``source``.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise EngineError(f"model directory {path}: it has no config.json")
        return path
    if isinstance(source, Path) or str(source).startswith((".", "/", "~")) or str(source).count("/") != 1:
        raise EngineError(f"model directory {source}: it does not exist")
    return _download(str(source))


def template_message(index: int, message: Message) -> dict[str, Any]:
    """``message`` as chat templates expect it: content a string, tool arguments an object."""
    plain = {key: value for key, value in message.items() if value is not None}
    plain["content"] = _content(index, message.get("content"))
    if calls := message.get("tool_calls"):
        plain["tool_calls"] = [_call(f"messages[{index}].tool_calls[{j}]", call) for j, call in enumerate(calls)]
    return plain


def _content(index: int, content: object) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise BadRequest("content must be a string or a list of text parts", f"messages[{index}].content")
    for j, part in enumerate(content):
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise BadRequest("only parts of type text are supported", f"messages[{index}].content[{j}].type")
    return "".join(part["text"] for part in content)


def _call(field: str, call: Any) -> dict[str, Any]:
    try:
        function = call["function"]
        arguments = function.get("arguments") or {}
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        plain = {**function, "name": function["name"], "arguments": arguments}
    except (LookupError, TypeError, AttributeError, ValueError) as why:
        raise BadRequest(f"not a tool call: {why}", f"{field}.function") from why
    if not isinstance(arguments, dict):
        raise BadRequest("arguments must be a JSON object", f"{field}.function.arguments")
    return {**call, "function": plain}


def _context(directory: Path) -> int:
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
        return int(config.get_text_config().max_position_embeddings)
    except (OSError, ValueError, KeyError, AttributeError) as why:
        raise EngineError(f"model directory {directory}: its config.json names no context length: {why}") from why


def _tokenizer(directory: Path) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as why:
        raise EngineError(f"model directory {directory}: no usable tokenizer: {why}") from why
    if not tokenizer.chat_template:
        raise EngineError(f"model directory {directory}: its tokenizer has no chat template")
    return tokenizer


def _download(model_id: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (it reads HF_HUB_OFFLINE when first imported)
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(model_id, ignore_patterns=["*.bin", "*.pth", "*.gguf", "original/*"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as why:
        raise EngineError(f"model {model_id}: it cannot be fetched from Hugging Face: {why}") from why
