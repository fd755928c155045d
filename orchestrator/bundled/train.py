"""Train the bundled models from scratch: ``python -m orchestrator.bundled.train [edge|cloud|all]``.

Endless fresh tasks from the training split, loss on the answers only, Muon for the layers' matrices and AdamW for the
rest, a fixed number of steps. Seeded: the same machine gives the same weights. A checkpoint every hundred
steps under ``--work`` lets an interrupted run go on. On one CPU thread the edge takes about 20 minutes and the cloud
about 60; with CUDA the run is in bfloat16 autocast. ``orchestrator.bundled.evaluate`` measures the result.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from actors.checkpoint import restore, save
from orchestrator.bundled.forward import answer_logits, answer_loss
from orchestrator.bundled.packing import Document, Encoder, pack
from orchestrator.bundled.recipes import RECIPES, Recipe
from orchestrator.bundled.tokenizer import train_tokenizer
from orchestrator.tasks.generator import Split, shared_tools, tasks
from orchestrator.tasks.tools import TOOLS

log = logging.getLogger(__name__)
MODELS = Path(__file__).parent / "models"
CONTEXT = 1024
_CHECKPOINT_EVERY = 100
_TOKENIZER_TASKS = 4000


def main() -> None:
    """Train what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="all", choices=[*RECIPES, "all"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=MODELS, help="where the model directories go")
    parser.add_argument("--work", type=Path, default=Path("var/bundled"), help="where checkpoints go")
    parser.add_argument("--steps", type=int, help="fewer or more steps than the recipe says")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    for name in RECIPES if options.model == "all" else [options.model]:
        recipe = RECIPES[name]
        tokenizer = fit_tokenizer()
        model = train(recipe, tokenizer, options.work / f"{name}.pt", options.device, options.steps or recipe.steps)
        export(model, tokenizer, options.out / name)


def fit_tokenizer() -> PreTrainedTokenizerBase:
    """The shared tokenizer, from the training split and the tools' declarations."""
    sample = list(itertools.islice(tasks(0, Split.TRAIN), _TOKENIZER_TASKS))
    texts = [task.messages[-1]["content"] for task in sample] + [task.text for task in sample]
    return train_tokenizer(texts + [json.dumps(tool) for tool in TOOLS.values()])


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """The untrained model. Embeddings are untied: a reload of tied ones is not safe in every engine."""
    torch.manual_seed(recipe.seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=recipe.head_dim,
        max_position_embeddings=CONTEXT,
        rope_theta=10_000.0,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def train(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, checkpoint: Path, device: str, steps: int
) -> Qwen3ForCausalLM:
    """Run the recipe; goes on from ``checkpoint`` where it exists."""
    model = build_model(recipe, tokenizer).to(device)
    optimizers = _optimizers(model, recipe)
    encoder = Encoder(tokenizer)
    start = int(restore(checkpoint, model, optimizers).get("step", 0.0))
    groups = itertools.islice(
        shared_tools(recipe.seed, Split.TRAIN, recipe.segments, recipe.kinds), start * recipe.documents, None
    )
    began, losses = time.monotonic(), []
    for step in range(start, steps):
        documents = [encoder.document(next(groups)) for _ in range(recipe.documents)]
        losses.append(_step(model, optimizers, documents, _rate(step / steps, recipe), device))
        if (step + 1) % _CHECKPOINT_EVERY == 0 or step + 1 == steps:
            save(checkpoint, model, optimizers, {"step": step + 1.0})
            exact = held_out_exact(model, encoder, recipe, device)
            pace = (time.monotonic() - began) / (step + 1 - start)
            mean = sum(losses[-_CHECKPOINT_EVERY:]) / len(losses[-_CHECKPOINT_EVERY:])
            log.info("%s step %d/%d loss %.4f exact %.3f %.2f s/step", recipe.name, step + 1, steps, mean, exact, pace)
    return model


def _step(
    model: Qwen3ForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    documents: list[Document],
    rate: float,
    device: str,
) -> float:
    with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
        loss = answer_loss(model, pack(documents, device))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


def _optimizers(model: Qwen3ForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "layers" not in name]
    muon = torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=0.0)
    adam = torch.optim.AdamW(others, lr=recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
    for optimizer, rate in ((muon, recipe.muon_lr), (adam, recipe.adam_lr)):
        for group in optimizer.param_groups:
            group["initial_lr"] = rate
    return [muon, adam]


def _rate(progress: float, recipe: Recipe) -> float:
    """Learning-rate factor: linear warm-up, flat, linear to zero."""
    rise = (progress + 1e-3) / recipe.warmup
    fall = (1 - progress) / (1 - recipe.decay_from)
    return min(1.0, rise, fall)


@torch.no_grad()
def held_out_exact(
    model: Qwen3ForCausalLM, encoder: Encoder, recipe: Recipe, device: str, documents: int = 24
) -> float:
    """Share of test-split answers whose every token is the model's first choice; [0, 1]."""
    groups = itertools.islice(shared_tools(7, Split.TEST, recipe.segments), documents)
    right = []
    for group in groups:
        document = encoder.document(group)
        batch = pack([document], device)
        hits: Tensor = answer_logits(model, batch).argmax(-1) == batch.targets
        lengths = [len(s.ids) - s.answer for s in sorted(document.segments, key=lambda s: len(s.ids))]
        right += [bool(part.all()) for part in hits.split(lengths)]
    return math.fsum(right) / len(right)


def export(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Write a Hugging Face directory in bfloat16 safetensors."""
    path.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(path)
    tokenizer.save_pretrained(path)
    log.info("wrote %s (%d parameters)", path, sum(p.numel() for p in model.parameters()))


if __name__ == "__main__":
    main()
