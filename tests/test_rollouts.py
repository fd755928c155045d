"""Sampling for training: a synchronised engine is a fresh engine, and its samples are the trainer's own policy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tiny_model import tiny_model_dir
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.rollouts import ROLLOUT_SETTINGS, Rollout, Rollouts
from actors.samples import Encoded, answer_logits, collate
from actors.trainer import load_model
from policies.errors import BadRequest, EngineError

pytestmark = pytest.mark.slow

SETTINGS = replace(ROLLOUT_SETTINGS, kv_cache_bytes=32 * 2**20)
PROMPTS = [list(range(20, 20 + length)) for length in (5, 60, 140)]
LONG = [[5 + (row * 7 + at) % 60 for at in range(300)] for row in range(12)]  # 3,600 tokens: more than one step reads


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_dir(tmp_path_factory.mktemp("base"), seed=1)


@pytest.fixture(scope="module")
def rollouts(base: Path) -> Iterator[Rollouts]:
    engine = Rollouts(base, "base", SETTINGS)
    yield engine
    engine.close()


@pytest.fixture
def model(base: Path) -> Any:
    return load_model(base, "cpu", torch.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_synchronised_engine_answers_like_a_fresh_one(base: Path, tmp_path: Path, dtype: str, tied: bool) -> None:
    settings = replace(SETTINGS, dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, tie_word_embeddings=tied)
    model.config.tie_word_embeddings = tied
    model.tie_weights()
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    first, second = saved(model, base, tmp_path / "first"), saved(perturbed(model, 1), base, tmp_path / "second")
    live, fresh = Rollouts(first, "first", settings), Rollouts(second, "second", settings)
    try:
        before = greedy(live)
        live.sync(model.named_parameters(), "second")
        assert greedy(live) == greedy(fresh) != before
        assert drawn(live) == drawn(fresh)
    finally:
        live.close()
        fresh.close()


def test_what_was_cached_with_the_old_weights_is_not_used_with_the_new(rollouts: Rollouts, model: Any) -> None:
    rollouts.sync(model.named_parameters(), "a")
    before = drawn(rollouts)
    for seed in (1, 2):
        rollouts.sync(perturbed(model, seed).named_parameters(), f"perturbed {seed}")
        assert drawn(rollouts) != before
        assert gaps(model, drawn(rollouts)).max() < 1e-4


def test_the_samples_are_of_the_trainers_own_policy(rollouts: Rollouts, model: Any) -> None:
    """Before and after an optimiser step, each token to 1e-4 nats."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for step in range(3):
        rollouts.sync(model.named_parameters(), f"step {step}")
        sampled = drawn(rollouts)
        assert {rollout.version for rollout in sampled} == {f"step {step}"}
        assert gaps(model, sampled).max() < 1e-4
        loss = -logits_of(model, sampled)[0].log_softmax(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_tokens_come_as_often_as_their_log_probabilities_say(rollouts: Rollouts, model: Any) -> None:
    rollouts.sync(sharpened(model, 8.0).named_parameters(), "sharp")
    count = 3000
    tokens = Counter(r.tokens[0] for r in rollouts.sample(PROMPTS[:1], count, 1.0, 1, seed=4))
    expected = logprobs_after(model, PROMPTS[0]).exp()
    for token in expected.topk(5).indices.tolist():
        share = expected[token].item()
        assert share > 0.01
        assert abs(tokens[token] / count - share) < 4.5 * math.sqrt(share * (1 - share) / count)


def test_a_colder_draw_is_likelier_and_still_carries_the_models_own_log_probabilities(
    rollouts: Rollouts, model: Any
) -> None:
    rollouts.sync(sharpened(model, 8.0).named_parameters(), "sharp")
    cold, warm = (rollouts.sample(PROMPTS, 16, temperature, 8, seed=1) for temperature in (0.3, 1.0))
    assert mean_logprob(cold) > mean_logprob(warm) + 1.0
    assert gaps(model, cold).max() < 1e-4


def test_a_seed_gives_the_same_answers_again_and_another_seed_others(rollouts: Rollouts, model: Any) -> None:
    rollouts.sync(model.named_parameters(), "a")
    first = rollouts.sample(LONG, 4, 1.0, 8, seed=7)  # read in several steps
    assert rollouts.sample(LONG, 4, 1.0, 8, seed=7) == first  # read from the prefix cache
    assert rollouts.sample(LONG, 4, 1.0, 8, seed=8) != first
    assert len({rollout.tokens for rollout in first}) == len(first)


def test_neighbouring_seeds_share_no_draw(rollouts: Rollouts, model: Any) -> None:
    rollouts.sync(model.named_parameters(), "a")
    tokens = [{r.tokens for r in rollouts.sample(PROMPTS[:1] * 2, 8, 1.0, 8, seed)} for seed in range(4)]
    assert len(set().union(*tokens)) == sum(map(len, tokens)) == 4 * 16


def test_an_answer_ends_with_the_end_token_or_is_marked_unfinished(rollouts: Rollouts, model: Any, base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    end = tokenizer.eos_token_id
    with torch.no_grad():  # an end token about every twelfth
        model.lm_head.weight.mul_(0.01)
        hidden = model.model(torch.tensor([PROMPTS[0]])).last_hidden_state[0, -1]
        model.lm_head.weight[end] = hidden * 3.5 / hidden.dot(hidden)
    rollouts.sync(model.named_parameters(), "ending")
    sampled = rollouts.sample(PROMPTS, 32, 1.0, 24, seed=3)
    assert [rollout.prompt for rollout in sampled] == [index for index in range(3) for _ in range(32)]
    assert {rollout.finished for rollout in sampled} == {True, False}
    for rollout in sampled:
        assert rollout.finished == (rollout.tokens[-1] == end)
        assert rollout.finished or len(rollout.tokens) == 24
        assert end not in rollout.tokens[:-1] and len(rollout.logprobs) == len(rollout.tokens)
        assert rollout.text == tokenizer.decode(rollout.tokens, skip_special_tokens=True)


def test_more_answers_than_run_at_once_wait_for_their_turn(base: Path, rollouts: Rollouts, model: Any) -> None:
    rollouts.sync(model.named_parameters(), "a")
    narrow = Rollouts(base, "a", replace(SETTINGS, max_num_seqs=4, kv_cache_bytes=2 * 2**20))
    try:
        assert [r.tokens for r in drawn(narrow)] == [r.tokens for r in drawn(rollouts)]
    finally:
        narrow.close()


def test_fifty_syncs_do_not_grow_memory(rollouts: Rollouts, model: Any) -> None:
    process = psutil.Process()

    def sync_and_sample(times: int) -> int:
        for step in range(times):
            rollouts.sync(model.named_parameters(), str(step))
            rollouts.sample(PROMPTS[:1], 4, 1.0, 4, seed=step)
        return int(process.memory_info().rss)

    settled = sync_and_sample(10)
    assert sync_and_sample(50) - settled < 4 * 2**20  # the model has 0.7 MB: a leaked copy a sync would be 35 MB


@pytest.mark.parametrize("damage", ["missing", "shape", "nan"])
def test_weights_that_do_not_fit_are_named_and_the_old_ones_stay(rollouts: Rollouts, model: Any, damage: str) -> None:
    rollouts.sync(model.named_parameters(), "good")
    before = drawn(rollouts)
    weights = {name: tensor.detach().clone() for name, tensor in perturbed(model, 3).named_parameters()}
    name = "model.layers.1.mlp.down_proj.weight"
    if damage == "missing":
        del weights[name]
    elif damage == "shape":
        weights[name] = torch.zeros(64, 64)
    else:
        weights[name][0, 0] = torch.nan
    with pytest.raises(EngineError, match=f"bad: {name} (is missing|has shape|has values that are not finite)"):
        rollouts.sync(weights.items(), "bad")
    assert drawn(rollouts) == before and before[0].version == "good"


def test_prompts_that_cannot_be_answered_are_named(rollouts: Rollouts) -> None:
    with pytest.raises(EngineError, match=r"prompts\[1\] has no tokens"):
        rollouts.sample([[5], []], 1, 1.0, 4, seed=0)
    with pytest.raises(EngineError, match=r"prompts\[0\] has 1000 tokens .* 25, but the context .* 1024"):
        rollouts.sample([[5] * 1000], 1, 1.0, 25, seed=0)
    with pytest.raises(BadRequest, match="vocabulary"):
        rollouts.sample([[5], [9999]], 1, 1.0, 4, seed=0)
    with pytest.raises(BadRequest, match="greedy"):
        rollouts.sample([[5]], 2, 0.0, 4, seed=0)
    assert len(rollouts.sample([[5]], 2, 1.0, 4, seed=0)) == 2  # nothing of those is left in the engine


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=str(tmp_path / "nowhere")):
        Rollouts(tmp_path / "nowhere", "v")


def drawn(rollouts: Rollouts) -> list[Rollout]:
    return rollouts.sample(PROMPTS, 4, 1.0, 16, seed=5)


def greedy(rollouts: Rollouts) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    return [(r.tokens, r.logprobs) for r in rollouts.sample(PROMPTS, 1, 0.0, 24, seed=0)]


def mean_logprob(rollouts: list[Rollout]) -> float:
    logprobs = [logprob for rollout in rollouts for logprob in rollout.logprobs]
    return sum(logprobs) / len(logprobs)


def saved(model: Any, base: Path, directory: Path) -> Path:
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(base).save_pretrained(directory)
    return directory


def perturbed(model: Any, seed: int) -> Any:
    """``model`` itself, changed enough to answer otherwise."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.02)
    return model


def sharpened(model: Any, factor: float) -> Any:
    """``model`` itself, surer of its next token: weights that know nothing find all tokens alike."""
    with torch.no_grad():
        model.lm_head.weight.mul_(factor)
    return model


def logits_of(model: Any, rollouts: list[Rollout]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the trainer says along the answers, and the tokens: [tokens, vocabulary] and [tokens]."""
    samples = [Encoded(PROMPTS[r.prompt] + list(r.tokens), len(PROMPTS[r.prompt]), 1.0) for r in rollouts]
    batch = collate(samples, "cpu")
    return answer_logits(model, batch), batch.targets


@torch.no_grad()
def gaps(model: Any, rollouts: list[Rollout]) -> torch.Tensor:
    """How far the engine's log-probabilities are from the trainer's, in nats, shape [tokens]."""
    logits, targets = logits_of(model, rollouts)
    own = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    return (own - torch.tensor([logprob for r in rollouts for logprob in r.logprobs])).abs()


@torch.no_grad()
def logprobs_after(model: Any, prompt: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(-1)  # type: ignore[no-any-return]
