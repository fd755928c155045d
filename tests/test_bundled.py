"""The bundled models: how they are trained, what their template survives, and that the packaged ones are whole."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import tiny_model_dir
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from orchestrator.bundled.forward import answer_logits, answer_loss
from orchestrator.bundled.packing import Document, Encoder, pack
from orchestrator.bundled.train import MODELS
from orchestrator.tasks.generator import Split, shared_tools
from policies.calibration import Calibrator

LIMIT_BYTES = 40 << 20


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(MODELS / "edge")
    return loaded


def documents(tokenizer: PreTrainedTokenizerBase, count: int) -> list[Document]:
    groups = itertools.islice(shared_tools(3, Split.TRAIN, 3), count)
    return [Encoder(tokenizer).document(group) for group in groups]


def test_a_packed_step_computes_what_the_model_says_of_each_request_alone(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(MODELS / "edge", dtype=torch.float32)
    given_documents = documents(tokenizer, 3)
    with torch.no_grad():
        packed = answer_logits(model, pack(given_documents))
        segments = sorted(((d, s) for d in given_documents for s in d.segments), key=lambda pair: len(pair[1].ids))
        alone = []
        for document, segment in segments:
            ids = torch.tensor([document.prefix + segment.ids])
            start = len(document.prefix) + segment.answer - 1
            alone.append(model(input_ids=ids).logits[0, start:-1])
    assert torch.allclose(packed, torch.cat(alone), atol=2e-3)


def test_a_training_step_reaches_every_parameter(tmp_path: Path) -> None:
    directory = tiny_model_dir(tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    answer_loss(model, pack(documents(AutoTokenizer.from_pretrained(directory), 1))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "properties", "items", "enum", "const", "required", "anyOf", "$ref", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(SCHEMAS, st.none() | st.text(max_size=8))
def test_the_template_survives_any_schema(schema: Any, content: str | None) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "cloud")
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": content, "tool_calls": None}]
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    assert text.endswith("<|assistant|>")


def test_the_packaged_models_are_whole_and_small() -> None:
    weights = [file for name in ("edge", "cloud") for file in (MODELS / name).glob("*.safetensors")]
    assert len(weights) == 2
    assert sum(file.stat().st_size for file in weights) < LIMIT_BYTES
    assert Calibrator.from_json((MODELS / "edge" / "calibrator.json").read_text()).samples > 0


def test_edge_and_cloud_read_the_same_tokens() -> None:
    edge, cloud = ((MODELS / name / "tokenizer.json").read_bytes() for name in ("edge", "cloud"))
    assert edge == cloud
