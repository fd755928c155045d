"""What the edge model itself makes of an answer: its hidden states, for the reward head of ``actors.scorers``.

vLLM does not give them, so the model's directory is read a second time, by transformers, in the edge's process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.engine import Prompt
from policies.errors import EngineError
from policies.preference import pool
from policies.score import FloatArray

WINDOW = 160  # prompt tokens before an answer that ``preference`` reads: the cost of a score stays bounded
DEPTH = 4  # one layer in so many is computed, from the bottom
READS = f"mean and deviation, 1/{DEPTH} of the layers, {WINDOW} prompt tokens"  # a head fits nothing else


class HiddenStates:
    """Hidden states of answers a quarter up the edge model, in float32, one forward pass for all drafts of a request.

    Cost decides what is computed. The prompt is rendered without its tools and cut to its last ``WINDOW`` tokens, and
    only the lowest layers run, rounded up: on the bundled tasks a head on a quarter of them ranks drafts as well as
    one on half of them (AUROC 0.94 for both, over two folds), and the forward pass takes 60% of the time. float32
    because bfloat16 is slower on CPUs at this size.

    Raises:
        EngineError: the model or its tokenizer cannot be loaded, or it is no stack of layers.
    """

    def __init__(self, directory: Path) -> None:
        import torch  # noqa: PLC0415  (only who scores by hidden states loads torch and transformers)

        from actors.rendering import Renderer  # noqa: PLC0415
        from actors.trainer import load_model  # noqa: PLC0415

        self._torch = torch
        self._renderer = Renderer(directory, context=1 << 30)  # nothing is too long: ``pooled`` cuts
        self._decoder: Any = load_model(directory, "cpu", torch.float32).get_decoder().eval()
        stacks = [name for name, part in self._decoder.named_children() if isinstance(part, torch.nn.ModuleList)]
        if len(stacks) != 1:
            raise EngineError(f"model directory {directory}: no single stack of layers, so no score reads its states")
        layers = getattr(self._decoder, stacks[0])
        lowest = layers[: -(-len(layers) // DEPTH)]
        setattr(self._decoder, stacks[0], lowest)
        self._decoder.config.num_hidden_layers = len(lowest)
        self.width = int(self._decoder.config.hidden_size)

    def pooled(self, prompt: Prompt, texts: Sequence[str]) -> FloatArray:
        """``policies.preference.pool`` of each text after ``prompt``: shape [texts, 2 d]."""
        torch, tokenizer = self._torch, self._renderer.tokenizer
        asked = self._renderer.render(Prompt(prompt.messages), 0)[-WINDOW:]
        answers = [[*tokenizer(t, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for t in texts]
        width = len(asked) + max(map(len, answers))
        ids = np.array([[*asked, *a, *[0] * (width - len(asked) - len(a))] for a in answers])
        with torch.inference_mode():  # causal: what pads on the right is seen by nobody
            states = self._decoder(input_ids=torch.from_numpy(ids), use_cache=False)
        rows = states.last_hidden_state[:, len(asked) :].numpy().astype(np.float64)
        return np.stack([pool(row[: len(answer)]) for row, answer in zip(rows, answers, strict=True)])
