"""What an answer looks like, and the tokenizer that makes it short.

    <think>5+7=12,12-3=9:no;5*7=35,35-3=32:yes</think><answer>(5*7)-3</answer>

Attempts stand between semicolons, their steps between commas, and each ends with the model's own verdict on whether
it reached the target. Where the model asks for help, the help marker takes the answer's place. Every number up to
``LARGEST``, sign, word, tag and the whole help marker is one token, so that an answer has 20 to 70 of them.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from fractions import Fraction
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from orchestrator.tasks.countdown import SHORT, random_expression
from policies.help_marker import HELP

LARGEST = 255  # no step of a chain passes it, so that the arithmetic is a small model's
THINK, END_THINK, ANSWER, END_ANSWER = "<think>", "</think>", "<answer>", "</answer>"
PAD, END, ROLES = "<|pad|>", "<|end|>", ("<|system|>", "<|user|>", "<|assistant|>")
_WORDS = sorted(
    set(f"{SHORT.system}{SHORT.help} {SHORT.user}".replace("{numbers}", "").replace("{target}", "").split())
)
YES, NO = ":yes", ":no"
_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer: whole numbers, words of the template, single signs; nothing is fitted."""
    pieces = [*map(str, range(LARGEST + 1)), *_WORDS, "yes", "no", *"+-*/()=,;: "]
    words = Tokenizer(models.WordLevel({piece: place for place, piece in enumerate(["<|unk|>", *pieces])}, "<|unk|>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d+|[a-z]+|[^a-z\d]"), behavior="isolated")
    words.decoder = decoders.Fuse()
    words.add_special_tokens([AddedToken(token, special=True) for token in (PAD, END, *ROLES)])
    # Special tokens disappear from decoded text; tags and the help marker must not.
    marks = (THINK, END_THINK, ANSWER, END_ANSWER, HELP)
    words.add_tokens([AddedToken(token, special=False, normalized=False) for token in marks])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<|unk|>",
        pad_token=PAD,
        eos_token=END,
        chat_template=_CHAT,
        clean_up_tokenization_spaces=False,
    )


def answer(attempts: Sequence[str], target: int, ask: bool) -> str:
    """The text that thinks through ``attempts`` (expressions) and answers with the last one, or asks for help."""
    thought = ";".join(f"{','.join(steps(attempt))}{YES if reaches(attempt, target) else NO}" for attempt in attempts)
    end = HELP if ask else f"{ANSWER}{attempts[-1].replace(' ', '')}{END_ANSWER}"
    return f"{THINK}{thought}{END_THINK}{end}"


def steps(expression: str) -> list[str]:
    """The expression as single steps, innermost first: ``5 * 7 - 3`` is ``5*7=35`` and ``35-3=32``.

    Raises:
        ValueError: a step has a result that is not a whole number from 0 to ``LARGEST``.
    """
    found: list[str] = []
    _value(ast.parse(expression, mode="eval").body, found)
    return found


def reaches(expression: str, target: int) -> bool:
    """Whether the last of the expression's steps is the target."""
    return steps(expression)[-1].endswith(f"={target}")


def random_attempt(rng: Random, numbers: Sequence[int], known: Sequence[str] = ()) -> str:
    """An expression over all the numbers with simple steps that is not ``known``, whatever it comes to."""
    while True:
        _, words = random_expression(rng, list(numbers))
        if words not in known and is_simple(words):
            return words


def is_simple(expression: str) -> bool:
    """Whether ``steps`` can write the expression."""
    try:
        steps(expression)
    except ValueError:
        return False
    return True


def _value(node: ast.expr, found: list[str]) -> Fraction:
    if isinstance(node, ast.Constant):
        return Fraction(int(str(node.value)))
    assert isinstance(node, ast.BinOp)
    left, right = _value(node.left, found), _value(node.right, found)
    sign = _SIGNS[type(node.op)]
    value = {"+": left + right, "-": left - right, "*": left * right}.get(sign)
    value = left / right if value is None else value
    if value.denominator != 1 or not 0 <= value <= LARGEST:
        raise ValueError(f"{left}{sign}{right} is {value}, not a whole number from 0 to {LARGEST}")
    found.append(f"{left}{sign}{right}={value}")
    return value
