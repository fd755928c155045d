"""Where a training run goes on after its process was killed: what learns, its optimisers' state, and figures.

Written aside, then moved: a kill leaves the last whole one. A disk that takes no checkpoint costs the run nothing but
the way back.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from policies.errors import EngineError

logger = logging.getLogger(__name__)

Optimizers = Sequence[torch.optim.Optimizer]


def save(path: Path, model: Any, optimizers: Optimizers, figures: Mapping[str, float]) -> None:
    """Replace what is in ``path``; frozen parameters are left out."""
    learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
    aside = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {"model": learnt, "optimizers": [o.state_dict() for o in optimizers], "figures": dict(figures)}, aside
        )
        aside.replace(path)
    except (OSError, RuntimeError) as why:  # torch's own words for a full disk are a RuntimeError
        with suppress(OSError):  # the disk that just failed
            aside.unlink(missing_ok=True)
        logger.warning(
            "%s: no checkpoint was written (%s); a run that is killed now starts from the last one", path, why
        )


def restore(path: Path, model: Any, optimizers: Optimizers) -> dict[str, float]:
    """Bring ``model`` and ``optimizers`` where they were; the figures saved with them, empty where nothing was saved.

    Raises:
        EngineError: what is there is of another model, or broken.
    """
    if not path.exists():
        return {}
    device = next(model.parameters()).device
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        unknown = model.load_state_dict(state["model"], strict=False).unexpected_keys
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        figures = {str(name): float(value) for name, value in state["figures"].items()}
    except (RuntimeError, OSError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as why:
        raise EngineError(f"{path}: cannot be gone on from ({why}). Fix: remove it") from why
    if unknown:
        raise EngineError(f"{path}: is of another model, with {unknown[0]}. Fix: remove it")
    logger.info("%s: going on from step %d", path, figures.get("step", 0))
    return figures
