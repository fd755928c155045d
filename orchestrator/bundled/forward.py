"""A Qwen3 forward pass over packed documents (see ``packing``), on the weights of the Hugging Face module.

Computes the same numbers as the module's own forward on each request alone; the tests compare the two.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3ForCausalLM

from orchestrator.bundled.packing import Batch, Bucket


def answer_logits(model: Qwen3ForCausalLM, batch: Batch) -> Tensor:
    """Logits at the positions that predict answer tokens, shape [A, vocabulary]."""
    x = F.embedding(batch.ids, model.model.embed_tokens.weight)
    cos, sin = model.model.rotary_emb(x[None], batch.positions[None])
    rotary = (cos[0][:, None], sin[0][:, None])
    for layer in model.model.layers:
        x = x + _attention(layer.self_attn, _norm(layer.input_layernorm, x), rotary, batch)
        x = x + layer.mlp(_norm(layer.post_attention_layernorm, x))
    return F.linear(_norm(model.model.norm, x[batch.predict]), model.lm_head.weight)


def answer_loss(model: Qwen3ForCausalLM, batch: Batch) -> Tensor:
    """Mean cross-entropy of the answer tokens, in nats."""
    return F.cross_entropy(answer_logits(model, batch).float(), batch.targets)


def _attention(attn: Any, x: Tensor, rotary: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
    shape = (len(x), -1, attn.head_dim)
    q = _rotate(_norm(attn.q_norm, attn.q_proj(x).view(shape)), rotary)
    k = _rotate(_norm(attn.k_norm, attn.k_proj(x).view(shape)), rotary)
    v = attn.v_proj(x).view(shape)
    split = len(batch.prefix_slots)
    head = [_pad(t[:split], batch.prefix_slots, batch.documents, batch.prefix_width) for t in (q, k, v)]
    first = F.scaled_dot_product_attention(head[0], head[1], head[2], is_causal=True, enable_gqa=True)
    mixed = [_unpad(first, batch.prefix_slots)]
    mixed += [_attend(bucket, q, k, v, head[1], head[2]) for bucket in batch.buckets]
    projected: Tensor = attn.o_proj(torch.cat(mixed))
    return projected


def _attend(bucket: Bucket, q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor) -> Tensor:
    """Segments over their document's prefix and themselves."""
    rows, part = len(bucket.owner), slice(bucket.start, bucket.stop)
    query, key, value = (_pad(t[part], bucket.slots, rows, bucket.width) for t in (q, k, v))
    keys = torch.cat([prefix_k[bucket.owner], key], dim=2)
    values = torch.cat([prefix_v[bucket.owner], value], dim=2)
    mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=bucket.mask, enable_gqa=True)
    return _unpad(mixed, bucket.slots)


def _norm(norm: Any, x: Tensor) -> Tensor:
    """RMSNorm through the fused kernel: the module's own spends a tenth of a CPU step on temporaries."""
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _pad(x: Tensor, slots: Tensor, rows: int, width: int) -> Tensor:
    """[tokens, heads, dim] -> [rows, heads, width, dim], zeros where no token sits."""
    flat = x.new_zeros(rows * width, *x.shape[1:]).index_copy(0, slots, x)
    return flat.view(rows, width, *x.shape[1:]).transpose(1, 2)


def _unpad(x: Tensor, slots: Tensor) -> Tensor:
    """[rows, heads, width, dim] -> [tokens, heads * dim]."""
    return x.transpose(1, 2).flatten(0, 1)[slots].flatten(1)


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotary
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin
