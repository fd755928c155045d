"""The border every model sits behind: generate, load new weights, close.

Implemented by vLLM in this process (``vllm_engine``), transformers (``transformers_engine``) and an
OpenAI-compatible endpoint (``remote_engine``). A completion is always the model's own text in the
tool-call syntax of ``policies.toolcalls``, so a cloud answer can be compared with, and taught to, an edge model.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Message = Mapping[str, Any]
Tool = Mapping[str, Any]
FinishReason = Literal["stop", "length", "abandoned"]
Watch = Callable[[float], bool]
"""Given each token's log-probability as it comes, on the engine's thread; True gives the answer up."""

Hear = Callable[[str], Awaitable[None]]
"""Given an answer's text in parts as it comes, from its beginning on."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw an answer; temperature 0 is greedy.

    The penalties are taken off the logit of a token that the answer has already: ``frequency_penalty`` for each time,
    ``presence_penalty`` once; log-probabilities are told without them. ``alternatives`` asks for the tokens by name,
    each with so many of the most probable ones in its place. ``watch`` may end a single sample early; its completion
    then says ``abandoned``. An engine that does not see its tokens one by one goes on to the end. ``hear`` listens to a
    single sample; what it did not hear is in the completion.
    """

    max_tokens: int = 256
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    alternatives: int | None = None
    watch: Watch | None = field(default=None, compare=False, repr=False)
    hear: Hear | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked: OpenAI messages and tools.

    ``schema``, if given, is a JSON Schema the text must satisfy (constrained decoding); ``prefill`` is
    text the answer is made to begin with, and is part of the completion's text; given both, the schema
    holds for what follows the prefill. ``tool_choice``, in OpenAI's form, is for remote models; a local one is
    made to call by schema and prefill.
    """

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    schema: Mapping[str, Any] | None = None
    prefill: str = ""
    tool_choice: str | Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A chosen token, its natural-log probability, and the most probable ones in its place with theirs, best first."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer; ``logprobs`` are the chosen tokens' natural-log probabilities, shape [tokens].

    Under a schema they are taken after masking: a forced token has log-probability 0. ``named`` are the same tokens,
    where ``Sampling.alternatives`` asked for them.
    """

    text: str
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    tokens: int
    named: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """The ``n`` completions of one prompt, with the version of the weights that made them.

    ``up_bytes`` and ``down_bytes`` count what crossed the link (0 for local engines). ``shared``: somebody else asked
    the same at the same time, and paid for it.
    """

    completions: tuple[Completion, ...]
    prompt_tokens: int
    version: str
    seconds: float
    up_bytes: int = 0
    down_bytes: int = 0
    cached_tokens: int = 0
    shared: bool = False


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a weight load did: the version now live and how long no step could run."""

    version: str
    gap_s: float
    moments: Mapping[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """A model that answers prompts and can be given new weights between two steps."""

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """Answer ``prompt``.

        Raises:
            BadRequest: the prompt cannot be rendered, or ``ContextTooLong``.
            EngineError: the model failed; ``Unreachable`` and ``Refused`` for remote ones.
        """
        ...

    async def load(self, path: Path, version: str) -> LoadReport:
        """Replace the weights by those in ``path`` between two steps; requests in flight go on.

        Raises:
            EngineError: the weights do not fit; the old ones stay live.
        """
        ...

    async def close(self) -> None:
        """Free the model; requests in flight fail with ``EngineError``."""
        ...
