"""Tasks by seed: a request, the tools on offer, and the answer that is right.

Difficulty: 1 plain; 2 optional arguments, other wordings, politeness; 3 units to convert, times relative to now,
idle remarks; 4 a correction or two calls. Training and test never share the wording of a request's core (see
``phrases``) nor a combination of values, which is assigned to a split by hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import Any

from orchestrator.tasks.phrases import INTENTS, Intent, split_wordings
from orchestrator.tasks.tools import TOOLS, WORKFLOW
from orchestrator.tasks.values import Scene, Spoken, clock, identifier
from orchestrator.tasks.workflow import ask_next, draw_plan
from policies.toolcalls import canonical, render
from policies.types import ToolCall


class Split(StrEnum):
    """TRAIN teaches; TEST has other wordings and values; OPEN, besides, words and names outside every list."""

    TRAIN = "train"
    TEST = "test"
    OPEN = "open"


PLANNING = "plan_workflow"  # the kind of a next-step task; every other kind is a tool's name
KINDS = (*INTENTS, PLANNING)
_PLANNING_SHARE = 2.0  # weight of next-step planning against one single tool
_HELD_SHARE = 5  # one in five combinations of values belongs to the test splits
_MOST_TRIES = 10_000  # one try in five fits a test split; running out means a kind has no wording in a split
_MOST_SHARED = 6  # tools needed by one training group; serving shows about as many
_OPENERS = ("", "", "please ", "can you ", "now ", "hello, ", "next, ")
_CLOSERS = ("", "", ", thanks", ", please", " right away")
_REMARKS = ("{other} is fine as it is", "leave {other} alone", "{other} was done already")
_FIXES = split_wordings(
    ("sorry,", "no,", "correction:", "wait,"),
    ("{do} {noun} is {words}", "{do} make {noun} {words}", "{do} {noun} should be {words}"),
)
_JOINS = (", and then ", "; after that ", ", also ", ", then ")


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
    """A worded request and the calls meant; ``values`` is what decides its split (default: the calls)."""

    text: str
    calls: tuple[ToolCall, ...]
    values: str = ""

    @property
    def held(self) -> bool:
        """Whether this combination of values belongs to the test splits."""
        digest = hashlib.blake2s((self.values or canonical(self.calls)).encode()).digest()
        return digest[0] % _HELD_SHARE == 0


def tasks(seed: int, split: Split, kinds: Mapping[str, float] | None = None, offered: int = 6) -> Iterator[Task]:
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


def _try(rng: Random, split: Split, kind: str, difficulty: int, offered: int, mix: Mapping[str, float]) -> Task | None:
    """Draw one task; None when its values belong to another split."""
    now = rng.randrange(0, 1440, 5)
    scene = Scene(now, difficulty >= 3, held=split is not Split.TRAIN, open_vocabulary=split is Split.OPEN)
    ask = _plan(rng, scene, difficulty) if kind == PLANNING else _request(rng, scene, kind, difficulty, mix)
    if ask is None or ask.held != scene.held:
        return None
    messages = ({"role": "system", "content": clock(now)}, {"role": "user", "content": ask.text})
    return Task(kind, difficulty, split, messages, _offer(rng, ask.calls, offered), ask.calls)


def _offer(rng: Random, calls: Sequence[ToolCall], offered: int) -> tuple[dict[str, Any], ...]:
    needed = list(dict.fromkeys(call.name for call in calls))
    others = rng.sample([name for name in TOOLS if name not in needed], max(0, offered - len(needed)))
    names = needed + others
    rng.shuffle(names)
    return tuple(TOOLS[name] for name in names)


def _plan(rng: Random, scene: Scene, difficulty: int) -> _Ask | None:
    """Next-step planning: the further along, the harder."""
    plan = draw_plan(rng, scene)
    done = rng.randrange(len(plan.calls))
    if 1 + min(3, done // 3) != difficulty:
        return None
    values = f"{done}/" + "/".join(str(spoken.value) for spoken in plan.slots.values())
    return _Ask(ask_next(rng, plan, done, scene.held), (plan.calls[done],), values)


def _request(rng: Random, scene: Scene, kind: str, difficulty: int, mix: Mapping[str, float]) -> _Ask | None:
    if difficulty == 4 and rng.random() < 0.5:
        return _two_calls(rng, scene, kind, mix)
    ask, spoken = _sentence(rng, scene, kind, difficulty)
    if difficulty == 3 and not any(word.hard for word in spoken.values()):
        return _with_remark(rng, scene, ask)
    if difficulty == 4:
        return _with_correction(rng, scene, kind, ask, spoken)
    return _polite(rng, ask) if difficulty > 1 else ask


def _sentence(rng: Random, scene: Scene, kind: str, difficulty: int) -> tuple[_Ask, dict[str, Spoken]]:
    """A core with clauses for the arguments it does not name, in any order."""
    intent = INTENTS[kind]
    novel = scene.open_vocabulary and rng.random() < 0.5
    core = rng.choice(intent.novel if novel else intent.wordings(scene.held))
    spoken = _speak(rng, scene, intent, difficulty)
    parts = [rng.choice(intent.clauses[name]) for name in spoken if "{" + name + "}" not in core]
    rng.shuffle(parts)
    words = {name: value.words for name, value in spoken.items()}
    call = ToolCall(kind, {name: value.value for name, value in spoken.items()})
    return _Ask(" ".join([core, *parts]).format(**words), (call,)), spoken


def _speak(rng: Random, scene: Scene, intent: Intent, difficulty: int) -> dict[str, Spoken]:
    """Draw every required argument, and at level 2 and above the optional ones more often than not."""
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
    return replace(ask, text=f"{rng.choice(_OPENERS)}{ask.text}{rng.choice(_CLOSERS)}")


def _with_remark(rng: Random, scene: Scene, ask: _Ask) -> _Ask:
    """An idle remark about something else, before or after the request."""
    other = identifier(rng.choice("cms"), 3)(rng, scene).words
    remark = rng.choice(_REMARKS).format(other=other)
    return replace(ask, text=f"{ask.text}; {remark}" if rng.random() < 0.5 else f"{remark}; {ask.text}")


def _with_correction(rng: Random, scene: Scene, kind: str, ask: _Ask, spoken: dict[str, Spoken]) -> _Ask | None:
    """The request, then another value for one argument; the later value counts."""
    intent = INTENTS[kind]
    name = rng.choice([name for name in spoken if name in intent.nouns])
    new = intent.slots[name](rng, scene)
    if any(new.value == old.value for old in spoken.values()):
        return None
    fix = rng.choice([text for text, is_held in _FIXES if is_held == scene.held])
    call = ToolCall(kind, {**ask.calls[0].arguments, name: new.value})
    return _Ask(f"{ask.text}; {fix.format(noun=intent.nouns[name], words=new.words)}", (call,))


def _two_calls(rng: Random, scene: Scene, kind: str, mix: Mapping[str, float]) -> _Ask:
    """Two requests of one domain in one sentence; calls in the order asked."""
    names = [name for name in INTENTS if name != kind and (name in WORKFLOW) == (kind in WORKFLOW)]
    other = rng.choices(names, [mix[name] + 1e-9 for name in names])[0]
    first, _ = _sentence(rng, scene, kind, 1)
    second, _ = _sentence(rng, scene, other, 1)
    return _Ask(f"{first.text}{rng.choice(_JOINS)}{second.text}", first.calls + second.calls)
