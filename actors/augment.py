"""More samples from few labels: the same request with other numbers, among other tools (ours).

Two changes leave a labelled call right. A value that stands once in the request's last message and in the answer was
copied, so another may take its place on both sides: for an id, a number or a time one of the same shape, for a word
another of its parameter's enum, or one that other labels have copied to the same parameter. The gate's own check then
says whether the changed call still fits its schema. The tools that are not called may come in any order, or not at
all. What a small model would otherwise learn by heart it has to copy. Prose answers are left alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from actors.training import Sample
from policies.toolcalls import check, parse, render
from policies.types import ToolCall

AS_IT_WAS = 0.15  # share of variants that keep their values: the real ones are the truest
TIME = re.compile(r"\d\d:\d\d")
TRIES = 4  # of other values, until all fit the schema
Place = tuple[str, str]  # tool and parameter


def variants(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """``count`` versions of every sample, the first as it is."""
    rng, words = Random(seed), _words(samples)
    return [sample if n == 0 else _varied(rng, sample, words) for sample in samples for n in range(count)]


def _words(samples: Iterable[Sample]) -> dict[Place, list[str]]:
    """By parameter, the words that may stand there: those of its enum, else those copied from a message."""
    found: dict[Place, dict[str, None]] = defaultdict(dict)
    for sample in samples:
        text = sample.messages[-1].get("content")
        for place, value in _copied_words(text, parse(sample.answer).calls) if isinstance(text, str) else ():
            allowed = [other for other in _enum(sample.tools, place) if isinstance(other, str)]
            found[place] |= dict.fromkeys(allowed or [value])
    return {place: list(words) for place, words in found.items()}


def _enum(tools: Sequence[Any], place: Place) -> Sequence[Any]:
    called, name = place
    tool: Mapping[str, Any] = next((tool["function"] for tool in tools if tool["function"]["name"] == called), {})
    properties = (tool.get("parameters") or {}).get("properties") or {}
    return (properties.get(name) or {}).get("enum") or ()


def _varied(rng: Random, sample: Sample, words: Mapping[Place, Sequence[str]]) -> Sample:
    calls = parse(sample.answer).calls
    if not calls:
        return sample
    changed = sample if rng.random() < AS_IT_WAS else _other_values(rng, sample, calls, words)
    return replace(changed, tools=_other_tools(rng, sample.tools, {call.name for call in calls}))


def _other_values(
    rng: Random, sample: Sample, calls: Sequence[ToolCall], words: Mapping[Place, Sequence[str]]
) -> Sample:
    *before, last = sample.messages
    text = last.get("content")
    if not isinstance(text, str):
        return sample
    shaped = _copied(text, calls)
    named = [(value, words.get(place, ())) for place, value in _copied_words(text, calls)]
    for _ in range(TRIES):
        if not (swaps := _swaps(rng, text, shaped, named)):
            break
        answer = render([replace(call, arguments=_swapped(call.arguments, swaps)) for call in calls])
        if check(parse(answer), sample.tools, True) is None:
            return replace(sample, messages=[*before, {**last, "content": _rewritten(text, swaps)}], answer=answer)
    return sample


def _swaps(rng: Random, text: str, shaped: Sequence[str], named: Sequence[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """What takes the place of each copied value; no two get the same word."""
    swaps = {value: _alike(rng, value) for value in shaped}
    for value, others in named:
        left = [other for other in others if other not in text and other not in swaps.values()]
        if left:
            swaps[value] = rng.choice(left)
    return swaps


def _copied(text: str, calls: Sequence[ToolCall]) -> list[str]:
    """Values with digits that were taken from ``text`` as they stand there, once."""
    values = dict.fromkeys(str(leaf) for call in calls for leaf in _leaves(call.arguments))
    return [value for value in values if _has_digit(value) and _stands_once(value, text)]


def _copied_words(text: str, calls: Sequence[ToolCall]) -> Iterator[tuple[Place, str]]:
    """Values without digits that were, and where they went."""
    for call in calls:
        for name, value in call.arguments.items():
            if isinstance(value, str) and not _has_digit(value) and _stands_once(value, text):
                yield (call.name, name), value


def _stands_once(value: str, text: str) -> bool:
    """Whether it was plainly taken from ``text``; a single letter may as well be an article."""
    return (len(value) > 1 or value.isdigit()) and text.count(value) == 1 and re.search(_alone(value), text) is not None


def _has_digit(value: str) -> bool:
    return re.search(r"\d", value) is not None


def _leaves(value: Any) -> Iterator[str | int | float]:
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield value


def _rewritten(text: str, swaps: Mapping[str, str]) -> str:
    return re.sub("|".join(map(_alone, swaps)), lambda match: swaps[match.group()], text)


def _swapped(value: Any, swaps: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _swapped(part, swaps) for key, part in value.items()}
    if isinstance(value, list):
        return [_swapped(part, swaps) for part in value]
    if isinstance(value, bool) or str(value) not in swaps:
        return value
    return type(value)(swaps[str(value)])


def _alike(rng: Random, value: str) -> str:
    """Other digits in the same places; the first of a number is 0 only where it was, and a time stays one."""
    if TIME.fullmatch(value):
        return f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    drawn = re.sub(r"\d", lambda _: str(rng.randint(0, 9)), value)
    if not re.fullmatch(r"\d+(\.\d+)?", value):
        return drawn
    return ("0" if value[0] == "0" else str(rng.randint(1, 9))) + drawn[1:]


def _alone(value: str) -> str:
    """A pattern for ``value`` where it is not part of a longer word, number or time."""
    return rf"(?<![\w.:-]){re.escape(value)}(?![\w:-]|\.\d)"


def _other_tools(rng: Random, tools: Sequence[Any], called: set[str]) -> list[Any]:
    chance = rng.random()  # of an uncalled tool to stay: from none to all of them
    kept = [tool for tool in tools if tool["function"]["name"] in called or rng.random() < chance]
    return rng.sample(kept, len(kept))
