"""Tasks by seed: a request, the tools on offer, and the answer that is right.

Difficulty: 1 plain; 2 optional arguments, other wordings, politeness; 3 units to convert, times relative to now,
idle remarks; 4 a correction or two calls. The splits never share a phrasing (the request with its values taken
out) nor a combination of values: both are assigned to a split by hash, before anything is drawn from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import Any

from orchestrator.tasks.phrases import INTENTS, Intent
from orchestrator.tasks.tools import TOOLS, WORKFLOW
from orchestrator.tasks.values import Scene, Spoken, clock, identifier
from orchestrator.tasks.workflow import ask_next, draw_plan
from policies.toolcalls import canonical, render
from policies.types import ToolCall


class Split(StrEnum):
    """TRAIN teaches; TEST has other phrasings and values; OPEN has, besides, names outside every list."""

    TRAIN = "train"
    TEST = "test"
    OPEN = "open"


PLANNING = "plan_workflow"  # the kind of a next-step task; every other kind is a tool's name
KINDS = (*INTENTS, PLANNING)
_PLANNING_SHARE = 3.0  # weight of next-step planning against one single tool
_HELD_SHARE = 5  # one in five phrasings, and one in five value combinations, belong to the test splits
_MOST_TRIES = 10_000  # one try in 25 fits a test split; running out means a kind has no phrasing left in a split
_MOST_SHARED = 6  # tools needed by one training group; serving shows about as many
_OPENERS = ("", "", "please ", "can you ", "now ", "hello, ", "next, ")
_CLOSERS = ("", "", ", thanks", ", please", " right away")
_REMARKS = ("{other} is fine as it is", "leave {other} alone", "{other} was done already")
_FIXES = ("sorry, {noun} is {words}", "no, make {noun} {words}", "correction: {noun} {words}")
_HELD_FIX = "wait, {noun} should be {words}"
_JOINS = (", and then ", "; after that ", ", also ")
_HELD_JOIN = ", then "


@dataclass(frozen=True, slots=True)
class Task:
    """One request with its ground truth."""

    kind: str
    difficulty: int
    split: Split
    messages: tuple[dict[str, str], ...]
    tools: tuple[dict[str, Any], ...]
    answer: tuple[ToolCall, ...]

    @property
    def text(self) -> str:
        """The answer as a model writes it."""
        return render(self.answer)


@dataclass(frozen=True, slots=True)
class _Ask:
    """A worded request: text, skeleton (text without values), the calls meant.

    ``fresh`` marks wordings that only the test splits have; ``values`` is what the answer depends on.
    """

    text: str
    skeleton: str
    calls: tuple[ToolCall, ...]
    fresh: bool = False
    values: str = ""

    def held(self) -> tuple[bool, bool]:
        """Whether the phrasing, and the combination of values, belong to the test splits."""
        return self.fresh or _is_held(self.skeleton), _is_held(self.values or canonical(self.calls))


def tasks(
    seed: int, split: Split, kinds: Mapping[str, float] | None = None, offered: int = 6
) -> Iterator[Task]:
    """An endless, reproducible stream.

    Args:
        kinds: relative weight of each kind of task (default: uniform, planning three times a tool's weight).
        offered: number of tools shown with each request, the needed ones among them.
    """
    rng = Random(f"{seed}/{split}")
    weights = kinds or {kind: _PLANNING_SHARE if kind == PLANNING else 1.0 for kind in KINDS}
    names, mass = list(weights), list(weights.values())
    mix = {name: weights.get(name, 0.0) for name in INTENTS}
    while True:
        kind, difficulty = rng.choices(names, mass)[0], rng.randint(1, 4)
        drawn = (_try(rng, split, kind, difficulty, offered, mix) for _ in range(_MOST_TRIES))
        yield next(task for task in drawn if task)


def shared_tools(seed: int, split: Split, group: int, kinds: Mapping[str, float] | None = None) -> Iterator[list[Task]]:
    """Groups of tasks behind one list of four to eight tools, as training packs them.

    Tasks come from one stream and join the first group whose list still has room for what they need.
    """
    rng = Random(f"{seed}/{split}/groups")
    stream = tasks(seed, split, kinds)
    waiting: list[list[Task]] = []
    while True:
        task = next(stream)
        home = next((g for g in waiting if len(_needed([*g, task])) <= _MOST_SHARED), None)
        if home is None:
            home = []
            waiting.append(home)
        home.append(task)
        if len(home) == group:
            waiting.remove(home)
            yield _behind_one_list(rng, home)


def _needed(group: Sequence[Task]) -> list[str]:
    return list(dict.fromkeys(call.name for task in group for call in task.answer))


def _behind_one_list(rng: Random, group: Sequence[Task]) -> list[Task]:
    needed = _needed(group)
    others = [name for name in TOOLS if name not in needed]
    names = needed + rng.sample(others, max(0, rng.randint(4, 8) - len(needed)))
    rng.shuffle(names)
    return [replace(task, tools=tuple(TOOLS[name] for name in names)) for task in group]


def _try(
    rng: Random, split: Split, kind: str, difficulty: int, offered: int, mix: Mapping[str, float]
) -> Task | None:
    """Draw one task; None when its phrasing or values belong to another split."""
    held = split is not Split.TRAIN
    now = rng.randrange(0, 1440, 5)
    scene = Scene(now, hard=difficulty >= 3, open_vocabulary=split is Split.OPEN)
    ask = _plan(rng, scene, difficulty, held) if kind == PLANNING else _request(rng, scene, kind, difficulty, held, mix)
    if ask is None or ask.held() != (held, held):
        return None
    messages = ({"role": "system", "content": f"Time {clock(now)}."}, {"role": "user", "content": ask.text})
    return Task(kind, difficulty, split, messages, _offer(rng, ask.calls, offered), ask.calls)


def _offer(rng: Random, calls: Sequence[ToolCall], offered: int) -> tuple[dict[str, Any], ...]:
    needed = list(dict.fromkeys(call.name for call in calls))
    others = rng.sample([name for name in TOOLS if name not in needed], max(0, offered - len(needed)))
    names = needed + others
    rng.shuffle(names)
    return tuple(TOOLS[name] for name in names)


def _plan(rng: Random, scene: Scene, difficulty: int, held: bool) -> _Ask | None:
    """Next-step planning: the further along, the harder."""
    plan = draw_plan(rng, scene)
    done = rng.randrange(len(plan.calls))
    if 1 + min(3, done // 3) != difficulty:
        return None
    fresh = held and rng.random() < 0.5
    text, skeleton = ask_next(rng, plan, done, fresh)
    values = f"{done}/" + "/".join(str(spoken.value) for spoken in plan.slots.values())
    return _Ask(text, skeleton, (plan.calls[done],), fresh, values)


def _request(
    rng: Random, scene: Scene, kind: str, difficulty: int, held: bool, mix: Mapping[str, float]
) -> _Ask | None:
    fresh = held and rng.random() < 0.5
    if difficulty == 4 and rng.random() < 0.5:
        return _two_calls(rng, scene, kind, fresh, mix)
    ask, spoken = _sentence(rng, scene, kind, difficulty, fresh)
    if difficulty == 3 and not any(word.hard for word in spoken.values()):
        return _with_remark(rng, scene, ask)
    if difficulty == 4:
        return _with_correction(rng, scene, kind, ask, spoken, fresh)
    return _polite(rng, ask) if difficulty > 1 else ask


def _sentence(
    rng: Random, scene: Scene, kind: str, difficulty: int, held: bool
) -> tuple[_Ask, dict[str, Spoken]]:
    """A core with clauses for the arguments it does not name, in any order."""
    intent = INTENTS[kind]
    core = rng.choice(intent.held if held else intent.cores)
    spoken = _speak(rng, scene, intent, difficulty)
    parts = [rng.choice(intent.clauses[name]) for name in spoken if "{" + name + "}" not in core]
    rng.shuffle(parts)
    pattern = " ".join([core, *parts])
    words = {name: value.words for name, value in spoken.items()}
    call = ToolCall(kind, {name: value.value for name, value in spoken.items()})
    return _Ask(pattern.format(**words), pattern, (call,), held), spoken


def _speak(rng: Random, scene: Scene, intent: Intent, difficulty: int) -> dict[str, Spoken]:
    """Draw every required argument, and at level 2 and above the optional ones half of the time."""
    chance = 0.6 if difficulty >= 2 else 0.0
    chosen = [name for name in intent.slots if name not in intent.optional or rng.random() < chance]
    spoken: dict[str, Spoken] = {}
    for name in chosen:
        drawn = intent.slots[name](rng, scene)
        while any(drawn.value == other.value and isinstance(drawn.value, str) for other in spoken.values()):
            drawn = intent.slots[name](rng, scene)
        spoken[name] = drawn
    return spoken


def _polite(rng: Random, ask: _Ask) -> _Ask:
    opener, closer = rng.choice(_OPENERS), rng.choice(_CLOSERS)
    return replace(ask, text=f"{opener}{ask.text}{closer}", skeleton=f"{opener}{ask.skeleton}{closer}")


def _with_remark(rng: Random, scene: Scene, ask: _Ask) -> _Ask:
    """An idle remark about something else, before or after the request."""
    other = identifier(rng.choice("cms"), 3)(rng, scene).words
    remark = rng.choice(_REMARKS)
    order = "{0}; {1}" if rng.random() < 0.5 else "{1}; {0}"
    text, skeleton = order.format(ask.text, remark.format(other=other)), order.format(ask.skeleton, remark)
    return replace(ask, text=text, skeleton=skeleton)


def _with_correction(
    rng: Random, scene: Scene, kind: str, ask: _Ask, spoken: dict[str, Spoken], held: bool
) -> _Ask | None:
    """The request, then another value for one argument; the later value counts."""
    intent = INTENTS[kind]
    name = rng.choice([name for name in spoken if name in intent.nouns])
    new = intent.slots[name](rng, scene)
    if any(new.value == old.value for old in spoken.values()):
        return None
    fix = _HELD_FIX if held else rng.choice(_FIXES)
    text = f"{ask.text}; {fix.format(noun=intent.nouns[name], words=new.words)}"
    call = ToolCall(kind, {**ask.calls[0].arguments, name: new.value})
    return _Ask(text, f"{ask.skeleton}; {fix}/{name}", (call,), held)


def _two_calls(rng: Random, scene: Scene, kind: str, held: bool, mix: Mapping[str, float]) -> _Ask:
    """Two requests of one domain in one sentence; calls in the order asked."""
    names = [name for name in INTENTS if name != kind and (name in WORKFLOW) == (kind in WORKFLOW)]
    other = rng.choices(names, [mix[name] + 1e-9 for name in names])[0]
    first, _ = _sentence(rng, scene, kind, 1, held)
    second, _ = _sentence(rng, scene, other, 1, False)
    join = _HELD_JOIN if held else rng.choice(_JOINS)
    skeleton = f"{first.skeleton}{join}{second.skeleton}"
    return _Ask(f"{first.text}{join}{second.text}", skeleton, first.calls + second.calls, held)


def _is_held(text: str) -> bool:
    """Whether the hash of ``text`` puts it into the test splits."""
    return hashlib.blake2s(text.encode()).digest()[0] % _HELD_SHARE == 0
