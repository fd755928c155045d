"""The ways to learn that are compared. All see the same requests; what differs is written here.

PPO and DPO go on from the supervised step of the same round. Reinforcement learning alone is there too: what a site
logs is mostly what its model cannot do, and answers that are never sampled cannot be reinforced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STEPS = 40  # of reinforcement learning a round, 128 answers each: about as long as 200 supervised steps take
REVERSE, FORWARD, EPOCHS = 0.05, 0.5, 2  # beta_R, beta_F, passes over a step's answers (before the second no ratio)


@dataclass(frozen=True, slots=True)
class Variant:
    """``training`` replaces fields of ``TrainConfig``; without ``refresh`` the first scorer judges all versions.

    ``refit`` sets the threshold of every version to what earned most on the round's held-out records.
    """

    name: str
    training: Mapping[str, Any] = field(default_factory=dict)
    refresh: bool = True
    refit: bool = False
    learner: Mapping[str, Any] = field(default_factory=dict)


def _ppo(reverse: float, forward: float) -> dict[str, Any]:
    return {
        "policy_steps": STEPS,
        "policy_epochs": EPOCHS,
        "policy_reverse": reverse,
        "policy_forward": forward,
    }


DEFAULT = Variant("supervised, anchored (as shipped)")
VARIANTS = (
    DEFAULT,
    Variant("supervised, no anchor", {"anchor_weight": 0.0}),
    Variant("then PPO, no anchor", _ppo(0.0, 0.0)),
    Variant("then PPO, reverse KL", _ppo(REVERSE, 0.0)),
    Variant("then PPO, forward KL", _ppo(0.0, FORWARD)),
    Variant("then PPO, both", _ppo(REVERSE, FORWARD)),
    Variant("then DPO", {"preference_steps": 120}),
    Variant("as shipped, scorer never refreshed", refresh=False),
    Variant("as shipped, threshold refitted", refit=True),
    Variant("as shipped, a label's half-life is 200", learner={"half_life": 200}),
    Variant("as shipped, what was right counts half", learner={"known_weight": 0.5}),
    Variant("PPO alone, both", {**_ppo(REVERSE, FORWARD), "steps": 0}),
)
