"""A Qwen3 of random weights that loads in every engine within a second: real code paths, no knowledge."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from orchestrator.bundled.tokenizer import train_tokenizer


def tiny_model_dir(path: Path, seed: int = 0, context: int = 1024, endless: bool = False) -> Path:
    """Write a model directory (about 0.2M parameters) under ``path`` and return it.

    ``endless``: its greedy answers go on to their limit, however a processor rounds.
    """
    words = "select clients move slice link cell name arguments tool call now then to from with"
    tokenizer = train_tokenizer([words, '{"name":"move_slice","arguments":{"to":"north"}}'], vocabulary=400)
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    if endless:
        with torch.no_grad():
            model.lm_head.weight[tokenizer.eos_token_id] = 0.0  # some other logit is above 0
    path.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
