"""A low-rank adapter under training (LoRA, by peft): the base is frozen, so it is the prior as well, at no memory.

Every linear layer W of the base but the output head answers with W + (alpha / r) B A, alpha = 2 r; only A and B, in
float32, have gradients and optimiser state. A round that starts from an adapter goes on with that adapter, of its rank,
over the same base; a frozen copy of it is the prior then. So adapters are never stacked. What is saved is the adapter
with its base's configuration and tokenizer; ``actors.weights`` reads that directory as a whole model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from actors.adapter_base import ADAPTER_FILE, base_of, whole, write_base
from actors.training import TrainConfig
from actors.weights import read_shapes
from policies.errors import EngineError

# Training all weights takes 20 bytes a parameter (two copies, gradients, two moments, in float32): 2 GB at this size.
LORA_ABOVE = 100_000_000

_TRAINED, _PRIOR = "default", "prior"


class Adapter:
    """The adapter of one round.

    Args:
        model: the base, loaded; its layers are replaced in place.
        base_dir: what the round starts from: the base's directory, or an adapter of it.
        rank: of a new adapter.

    Raises:
        EngineError: the adapter in ``base_dir`` cannot be read.
    """

    def __init__(self, model: Any, base_dir: Path, rank: int) -> None:
        self.model, self._base = model, whole(base_dir)
        self._continued = base_of(base_dir) is not None
        try:
            self._peft = _continued(model, base_dir) if self._continued else _fresh(model, rank)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as why:
            raise EngineError(f"adapter {base_dir}: cannot be trained: {why}") from why

    @contextmanager
    def prior(self) -> Iterator[Any]:
        """The model as it was before the round; a pass with it ends before that with the trained one begins."""
        if self._continued:
            self._peft.set_adapter(_PRIOR)
            yield self.model
            self._peft.set_adapter(_TRAINED)
        else:
            with self._peft.disable_adapter():
                yield self.model

    def save(self, directory: Path) -> None:
        """Write the adapter's weights (float32), its settings and which base it is of."""
        from peft import get_peft_model_state_dict  # noqa: PLC0415

        directory.mkdir(parents=True, exist_ok=True)
        state = get_peft_model_state_dict(self._peft, adapter_name=_TRAINED, save_embedding_layers=False)
        save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, directory / ADAPTER_FILE)
        self._peft.peft_config[_TRAINED].save_pretrained(directory)
        write_base(directory, self._base.absolute())


def uses_lora(base_dir: Path, config: TrainConfig) -> bool:
    """Whether a round trains an adapter: as configured, or by the number of parameters.

    Raises:
        EngineError: it does, and steps are configured that train all weights.
    """
    parameters = sum(math.prod(shape) for shape in read_shapes(base_dir).values())
    if config.method == "full" or (config.method == "auto" and parameters <= LORA_ABOVE):
        return False
    if config.preference_steps or config.policy_steps:
        raise EngineError(
            f"{base_dir}: learner.policy_steps train all weights, and learner.method {config.method} trains an adapter "
            "of this model. Fix: set learner.policy_steps to 0, or learner.method to full"
        )
    return True


def _fresh(model: Any, rank: int) -> Any:
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415  (a second to import)

    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, settings)


def _continued(model: Any, base_dir: Path) -> Any:
    from peft import PeftModel  # noqa: PLC0415

    adapted = PeftModel.from_pretrained(model, base_dir, _TRAINED, is_trainable=True)
    adapted.load_adapter(base_dir, _PRIOR)
    adapted.set_adapter(_TRAINED)
    return adapted


def trained(model: Any) -> list[torch.nn.Parameter]:
    """The parameters that learn."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
