"""Which tests run side by side: files do, but those that start Ray come one after the other, and first.

Hypothesis does not time its examples: beside engines and Ray they take as long as they take.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

settings.register_profile("beside_others", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("beside_others")

RAY = (
    "test_system",
    "test_faults_killed",
    "test_faults_restart",
    "test_train_job",
    "test_train_policy",
    "test_learner",
    "test_ray_cluster",
    "test_session",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest first: the scheduler keeps this order."""
    items.sort(key=lambda item: item.path.stem not in RAY)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """A file stays on one worker, for its engines' sake; two Ray sessions at once would take each other's memory."""
    return _ByFile(config, log)


class _ByFile(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        name = PurePosixPath(nodeid.partition("::")[0]).stem
        return "ray" if name in RAY else name
