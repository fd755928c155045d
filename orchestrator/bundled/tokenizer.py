"""The tokenizer both bundled models share.

Byte-level BPE in which the space, every digit and the underscore are tokens of their own, so that a word or
an id has the same tokens in a request and inside the JSON of the answer: copying is then token by token.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from policies.toolcalls import CLOSE, OPEN

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|tools|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
VOCABULARY = 1024
_PIECES = Regex(r"\d| |\n|_|[^\W\d_]+|[^\w\s]+|\s+")
_TEMPLATE = Path(__file__).parent / "chat_template.jinja"


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Fit the tokenizer on ``texts`` and give it the chat template that renders tools."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_PIECES, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    # Special tokens disappear from decoded text; the tool-call marks must not.
    special = [AddedToken(token, special=True) for token in (PAD, END, *ROLES)]
    marks = [AddedToken(token, special=False, normalized=False) for token in (OPEN, CLOSE)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(marks),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_tokens(marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        chat_template=_TEMPLATE.read_text(),
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
