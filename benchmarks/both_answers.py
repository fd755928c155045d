"""Both models' real answers to the same requests, kept in a file so that many rules can be tried on them.

``collect`` asks the bundled models through vLLM, greedily, and writes one Parquet file per split under ``var``, named
after the weights; a second call reads it. ``Both`` holds the rows; ``outcomes`` makes of them what thresholds are
fitted on and compared with.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.chat import ChatRequest
from actors.edge_node import DOWN_OVERHEAD_BYTES, UP_OVERHEAD_BYTES
from actors.engine_settings import LocalSettings
from actors.model_store import digest_of, digests
from actors.rendering import Renderer
from actors.scorer import first_scorer
from actors.vllm_engine import VllmEngine
from orchestrator.bundled.evaluate import Answered, answer
from orchestrator.bundled.train import MODELS
from orchestrator.tasks.generator import Split, Task, tasks
from policies.outcomes import Outcomes
from policies.score import FloatArray
from policies.types import CloudWork

MAX_TOKENS = 160
SEED = 31  # of the requests; the calibrator's and the evaluation's are others


@dataclass(frozen=True, slots=True)
class Both:
    """One request with both answers judged against the task's ground truth."""

    question: str
    kind: str
    difficulty: int
    offered: int
    prompt_bytes: int
    prompt_tokens: int
    draft: str
    logprobs: tuple[float, ...]
    draft_valid: bool
    edge_right: bool
    cloud_right: bool
    cloud_tokens: int
    cloud_bytes: int

    @property
    def work(self) -> CloudWork:
        """What the cloud would have to do."""
        up, down = self.prompt_bytes + UP_OVERHEAD_BYTES, self.cloud_bytes + DOWN_OVERHEAD_BYTES
        return CloudWork(up, down, self.prompt_tokens, self.cloud_tokens)


def collect(split: Split, count: int, var: Path = Path("var")) -> list[Both]:
    """``count`` requests of ``split``; asked once, about twenty minutes for 12,000 on two cores."""
    weights = "model.safetensors"
    files = {f"{name}/{weights}": digests(MODELS / name)[weights] for name in ("edge", "cloud")}
    path = var / "benchmarks" / f"both-{split.value}-{count}-{digest_of(files)[:8]}.parquet"
    if not path.exists():
        rows = asyncio.run(_ask(split, count))
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows]), path)
    return [Both(**{**row, "logprobs": tuple(row["logprobs"])}) for row in pq.read_table(path).to_pylist()]


def scores(rows: Sequence[Both], edge: Path = MODELS / "edge") -> FloatArray:
    """The edge model's own calibrated scores, 0 for invalid drafts; shape [n]."""
    scorer = first_scorer(edge)
    found = [scorer.judge(r.question, r.offered, r.logprobs, r.draft_valid) for r in rows]
    return np.array(found, dtype=np.float64)


def outcomes(rows: Sequence[Both], score: FloatArray) -> Outcomes:
    """The rows as arrays, with ``score``."""
    edge, cloud = [float(row.edge_right) for row in rows], [float(row.cloud_right) for row in rows]
    return Outcomes.of(score.tolist(), edge, cloud, [row.work for row in rows])


async def _ask(split: Split, count: int) -> list[Both]:
    batch = list(itertools.islice(tasks(SEED, split), count))
    edge, cloud = await asyncio.gather(*(_answers(name, batch) for name in ("edge", "cloud")))
    renderer = Renderer(MODELS / "edge", None)
    return [_row(one, other, renderer) for one, other in zip(edge, cloud, strict=True)]


async def _answers(name: str, batch: Sequence[Task]) -> list[Answered]:
    engine = VllmEngine(MODELS / name, name, LocalSettings(threads=1))
    await engine.setup()
    try:
        return await answer(engine, batch)
    finally:
        await engine.close()


def _row(edge: Answered, cloud: Answered, renderer: Renderer) -> Both:
    task = edge.task
    request = ChatRequest(task.messages, task.tools)
    return Both(
        question=task.messages[-1]["content"],
        kind=task.kind,
        difficulty=task.difficulty,
        offered=len(task.tools),
        prompt_bytes=len(request.payload),
        prompt_tokens=len(renderer.render(request.prompt, MAX_TOKENS)),
        draft=edge.completion.text,
        logprobs=edge.completion.logprobs,
        draft_valid=edge.is_valid,
        edge_right=edge.correct,
        cloud_right=cloud.correct,
        cloud_tokens=cloud.completion.tokens,
        cloud_bytes=len(cloud.completion.text.encode()),
    )
