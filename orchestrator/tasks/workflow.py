"""Planning the next step of a federated-learning workflow: goal and completed steps in, next call out.

A plan is, for every round, select_clients, start_round, aggregate_updates; then evaluate_model and publish_model.
The field of the routing paper ([A][G] in its notes); the plan itself is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from orchestrator.tasks.phrases import INTENTS
from orchestrator.tasks.values import Scene, Spoken
from policies.types import ToolCall

_GOALS = (
    "train {model} for {rounds} rounds with {count} clients, strategy {strategy}, merged by {method}, "
    "then evaluate on {split} and publish to {stage}",
    "{rounds} rounds on {model}, {count} clients each, strategy {strategy}, method {method}, "
    "evaluate on {split}, publish to {stage}",
    "get {model} to {stage}: {rounds} rounds of {count} clients, strategy {strategy}, method {method}, "
    "checked on {split}",
    "publish {model} to {stage} after {rounds} rounds with {count} clients, strategy {strategy}, "
    "method {method}, and an evaluation on {split}",
)
_DONE = ("done: {steps}", "completed: {steps}", "so far: {steps}", "finished: {steps}")
_ASK = ("next step", "what is next", "continue")
_WORDINGS = [
    ((goal, done), (row + column) % len(_DONE) == 0)
    for row, goal in enumerate(_GOALS)
    for column, done in enumerate(_DONE)
]


@dataclass(frozen=True, slots=True)
class Plan:
    """One workflow; ``calls`` in the order they must be made."""

    slots: dict[str, Spoken]

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        value = {name: spoken.value for name, spoken in self.slots.items()}
        steps: list[ToolCall] = []
        for number in range(1, value["rounds"] + 1):
            steps.append(ToolCall("select_clients", {"count": value["count"], "strategy": value["strategy"]}))
            steps.append(ToolCall("start_round", {"round": number}))
            steps.append(ToolCall("aggregate_updates", {"round": number, "method": value["method"]}))
        steps.append(ToolCall("evaluate_model", {"model_id": value["model"], "split": value["split"]}))
        steps.append(ToolCall("publish_model", {"model_id": value["model"], "stage": value["stage"]}))
        return tuple(steps)


def draw_plan(rng: Random, scene: Scene) -> Plan:
    """A plan of one to three rounds."""
    select, aggregate = INTENTS["select_clients"].slots, INTENTS["aggregate_updates"].slots
    evaluate, publish = INTENTS["evaluate_model"].slots, INTENTS["publish_model"].slots
    rounds = rng.randint(1, 3)
    return Plan(
        {
            "model": evaluate["model_id"](rng, scene),
            "rounds": Spoken(rounds, str(rounds)),
            "count": select["count"](rng, scene),
            "strategy": select["strategy"](rng, scene),
            "method": aggregate["method"](rng, scene),
            "split": evaluate["split"](rng, scene),
            "stage": publish["stage"](rng, scene),
        }
    )


def ask_next(rng: Random, plan: Plan, done: int, held: bool) -> str:
    """The request for the step after ``done`` steps; one wording in four belongs to the test splits."""
    goal, so_far = rng.choice([pair for pair, is_held in _WORDINGS if is_held == held])
    steps = ", ".join(_step(call) for call in plan.calls[:done]) or "nothing"
    words = {name: spoken.words for name, spoken in plan.slots.items()}
    return f"goal: {goal.format(**words)}; {so_far.format(steps=steps)}; {rng.choice(_ASK)}"


def _step(call: ToolCall) -> str:
    number = call.arguments.get("round")
    return f"{call.name} {number}" if number else call.name
