"""Two workers train as one: real processes, real torch.distributed over gloo, a tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import tiny_model_dir
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException, start_processes

from actors.data_parallel import ALONE, Peers
from actors.trainer import Trainer
from actors.training import Sample, TrainConfig
from policies.errors import EngineError

CONFIG = TrainConfig(steps=6, batch_size=5, anchor_batch=3, anchor_weight=0.5, lr=1e-3)
ROUNDING = 2e-5  # of float32 weights after six steps of Adam: ten times what was seen


def ask(text: str, answer: str, weight: float = 1.0) -> Sample:
    return Sample([{"role": "user", "content": text}], [], answer, weight)


LABELS = [ask(f"slice {n} " * (1 + n % 3), "move to " * (1 + n % 4), 1.0 + n % 2) for n in range(11)]
ANCHORS = [ask(f"status {n}", "now then select", 1.0 + n) for n in range(4)]


def train(base: Path, out: Path, config: TrainConfig, peers: Peers, labels: list[Sample]) -> None:
    """One worker's part, as a worker of a group runs it; ``out`` gets float32 weights and figures."""
    trainer = Trainer(base, config, peers)
    with peers.joined():
        figures = trainer.fit(labels, ANCHORS, lambda _: None)
    weights = {name: tensor.clone() for name, tensor in trainer._model.state_dict().items()}
    told = {
        f"figure.{name}": torch.tensor(figures[name], dtype=torch.float64) for name in ("loss", "nll", "kl", "step")
    }
    save_file({**weights, **told}, out)


def worker(rank: int, base: Path, out: Path, config: TrainConfig, labels: list[Sample]) -> None:
    """The process of one of two."""
    torch.set_num_threads(1)
    train(base, out / f"{rank}.safetensors", config, Peers(rank, 2, str(out / "meeting")), labels)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_dir(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def weights(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """Of the first worker, the second, and one that worked alone on whole batches."""
    out = tmp_path_factory.mktemp("out")
    start_processes(worker, (base, out, CONFIG, LABELS), nprocs=2, start_method="spawn")
    train(base, out / "alone.safetensors", CONFIG, ALONE, LABELS)
    return [load_file(out / f"{name}.safetensors") for name in ("0", "1", "alone")]


@pytest.mark.slow
def test_both_workers_end_with_the_very_same_weights(weights: list[dict[str, Tensor]]) -> None:
    first, second, _ = weights
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_two_workers_learn_what_one_learns_from_whole_batches(weights: list[dict[str, Tensor]], base: Path) -> None:
    """Odd batches, so that shares differ in size; weights that differ, so that a plain average would be wrong."""
    first, _, alone = weights
    start = Trainer(base, CONFIG)._model.state_dict()
    for name in alone:
        torch.testing.assert_close(first[name], alone[name], atol=ROUNDING, rtol=1e-4)
    moved = max(float((alone[name] - start[name]).abs().max()) for name in start)
    assert moved > 100 * ROUNDING, "the comparison says nothing of weights that stayed where they were"


@pytest.mark.slow
def test_a_time_limit_ends_both_at_the_same_step(base: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=100_000, time_limit_s=0.5)
    start_processes(worker, (base, tmp_path, config, LABELS), nprocs=2, start_method="spawn")
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert float(first["figure.step"]) == float(second["figure.step"]) < 100_000


@pytest.mark.slow
def test_a_loss_that_one_worker_cannot_compute_ends_both_at_once(base: Path, tmp_path: Path) -> None:
    broken = [ask("slice", "move", float("inf")), *LABELS]
    with pytest.raises(ProcessRaisedException, match="diverged"):
        start_processes(worker, (base, tmp_path, CONFIG, broken), nprocs=2, start_method="spawn")


def test_shares_are_all_rows_once_and_nearly_equal() -> None:
    rows = list(range(17))
    shares = [Peers(rank, 5).share(rows) for rank in range(5)]
    assert sorted(row for share in shares for row in share) == rows
    assert {len(share) for share in shares} == {3, 4}
    assert ALONE.share(rows) == rows


def test_one_that_works_alone_needs_no_process_group(base: Path) -> None:
    with ALONE.joined():
        assert not torch.distributed.is_initialized()
    with pytest.raises(EngineError, match="none of 1 samples"):
        Trainer(base, CONFIG).fit([ask("x " * 3000, "y")], [], lambda _: None)
