"""The error tree of the whole program.

NetGPTError
|-- BadRequest            the caller's mistake: answered 4xx, names the field
|   `-- ContextTooLong    prompt and answer do not fit the model's context
|-- Busy                  too many requests now: answered 429, says when to come back
|-- BadConfig             the operator's mistake: names the file, the key and the fix
|-- EngineError           a model could not be loaded or run: names the path or endpoint
|   |-- Unreachable       the remote end did not answer (link down, timeout, refused)
|   `-- Refused           the remote end answered with an error status
|-- StoreError            a model version is missing, incomplete or fails its checksum
`-- LogError              the offload log cannot be read or written

Every class survives pickling, because Ray carries them between processes.
"""

from __future__ import annotations


class NetGPTError(Exception):
    """Root of every error this program raises on purpose."""


class BadRequest(NetGPTError):
    """A request that can never succeed as sent.

    Args:
        message: one sentence that says what to change.
        field: JSON path of the offending field (``messages[0].role``), or None.
        code: machine-readable code in OpenAI's sense (``invalid_value``).
        status: HTTP status, 4xx.
    """

    def __init__(self, message: str, field: str | None = None, code: str = "invalid_value", status: int = 400) -> None:
        super().__init__(message, field, code, status)
        self.message, self.field, self.code, self.status = message, field, code, status

    def __str__(self) -> str:
        return self.message


class ContextTooLong(BadRequest):
    """The prompt, with the room an answer needs, exceeds the model's context."""

    def __init__(self, prompt_tokens: int, room: int, limit: int) -> None:
        BadRequest.__init__(
            self,
            f"messages and tools take {prompt_tokens} tokens and an answer {room} at least, "
            f"but the model's context is {limit}: shorten messages or tools",
            field="messages",
            code="context_length_exceeded",
        )
        self.args = (prompt_tokens, room, limit)


class Busy(NetGPTError):
    """A request that comes too soon after, or beside, too many others.

    Args:
        message: what is used up.
        retry_after_s: when it will not be any more.
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message, retry_after_s)
        self.message, self.retry_after_s = message, retry_after_s

    def __str__(self) -> str:
        return self.message


class BadConfig(NetGPTError):
    """A configuration that cannot be used; the message names the file, the key and the fix."""


class EngineError(NetGPTError):
    """A model could not be loaded or run; the message names the path or endpoint and why."""


class Unreachable(EngineError):
    """The remote end gave no answer: refused, reset, timed out or circuit open."""


class Refused(EngineError):
    """The remote end answered with an error status.

    Args:
        message: the endpoint, the status and the upstream's own words.
        status: HTTP status of the upstream.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, status)
        self.status = status

    def __str__(self) -> str:
        return str(self.args[0])


class StoreError(NetGPTError):
    """A model version is missing, incomplete or fails its checksum."""


class LogError(NetGPTError):
    """The offload log cannot be read or written."""
