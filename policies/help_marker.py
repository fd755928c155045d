"""How a model asks for help: ordinary text at the end of its own answer, no new token and no extra head.

The string is that of arXiv 2509.24050 (section 3 and its prompt templates). Sampled texts stray from it (the bare
sentence without tags, a typo in the last word, a full stop), so reading it is lenient: the tag or the phrase, but only
as the last thing the model says, and never inside a tool call. How lenient is ours. Pass the model's own text
only: what the cloud answered after it says nothing about who asked.
"""

from __future__ import annotations

import re

from policies.toolcalls import CLOSE, OPEN

HELP = "<unknown> I need external assistance </unknown>"
_TAIL = 200  # characters looked at: a request is 47 long, and no text can make the search slow
_PHRASE = r"i\s+need\s+external\s+ass?i\w+"  # sampled texts end in "assitance" too
_INSIDE = r"[^<>\"{}]{0,80}"  # what may stand in the tag: never a piece of JSON
_REQUEST = re.compile(
    # The tag, closed or cut off by the end of the answer, or the phrase; then only what closes a sentence or a tag.
    rf"(?P<tag><\s*unknown\s*>\s*(?:{_INSIDE}<\s*/\s*unknown\s*>|i\s+need\b{_INSIDE}))|(?P<phrase>{_PHRASE})",
    re.IGNORECASE,
)
_CLOSING = re.compile(r"(?:[\s.!*})]|</\s*(?:unknown|answer|think)\s*>)*\Z", re.IGNORECASE)


def _any_beginning(*parts: str) -> str:
    """The pattern of the first parts of a pattern, however many, at the end of a text."""
    pattern = ""
    for part in reversed(parts):
        pattern = f"(?:{part}{pattern}|\\Z)"
    return pattern


_WORDS = _any_beginning(r"\s+", *"need", r"\s+", *"external", r"\s+", *"as", "s?", "i", r"\w*\Z")
_BEGUN = re.compile(
    rf"<\s*{_any_beginning(*'unknown')}|i{_WORDS}|{_PHRASE}(?:[\s.!*}})]|</[^<>]*>?)*\Z",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[.!?]\s|[\n>]")  # after these a new sentence begins


def asks_for_help(text: str) -> bool:
    """Whether the model's own ``text`` ends in a request for help."""
    return _request_at(text) is not None


def without_request(text: str) -> str:
    """What may be shown of ``text``: all before the sentence that asks for help, or all where none does.

    An answer's own wrapping left open by the cut (``<answer>``) goes with it; reasoning before it stays.
    """
    start = _request_at(text)
    if start is None:
        return text
    return text[:start].rstrip().removesuffix("<answer>").removesuffix("\\boxed{").rstrip()


def may_begin(text: str) -> int:
    """Where in ``text``, which goes on, a request for help begins that it may turn out to end in; else its length."""
    own = max(text.rfind(CLOSE) + 1, len(text) - _TAIL, 0)
    found = _BEGUN.search(text, own)
    return found.start() if found else len(text)


def _request_at(text: str) -> int | None:
    """Where the sentence that asks for help begins, or None."""
    own = max(text.rfind(CLOSE) + 1, len(text) - _TAIL, 0)
    if text.rfind(OPEN) > text.rfind(CLOSE):
        return None  # a call that is not closed: its argument may say anything
    for found in _REQUEST.finditer(text, own):
        if _CLOSING.match(text, found.end()):
            return found.start() if found["tag"] else _sentence_start(text, found.start())
    return None


def _sentence_start(text: str, end: int) -> int:
    """The start of the sentence that runs up to ``end``."""
    return max((found.end() for found in _SENTENCE.finditer(text, 0, end)), default=0)
