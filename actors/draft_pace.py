"""How long drafts take and how long they are: running means of one node, for what has to be known before a draft."""

from __future__ import annotations

import math

from actors.engine import Generation

MEMORY = 0.05  # weight of the newest draft: the last twenty or so count
ENOUGH = 5  # drafts before the means are believed
MARGIN = 2.0  # standard deviations to what counts as a long draft


class DraftPace:
    """Means over recent whole drafts; all 0 until there was one."""

    def __init__(self) -> None:
        self._drafts = 0
        self.draft_s = self.draft_tokens = self.tokens_per_byte = 0.0
        self._spread = 0.0

    @property
    def known(self) -> bool:
        """Whether enough drafts were seen."""
        return self._drafts >= ENOUGH

    @property
    def long_draft(self) -> float:
        """Tokens that few drafts exceed."""
        return self.draft_tokens + MARGIN * math.sqrt(self._spread)

    def observe(self, generation: Generation, seconds: float, prompt_bytes: int) -> None:
        """Learn from a draft; an abandoned one says nothing about whole ones."""
        completion = generation.completions[0]
        if completion.finish_reason == "abandoned" or completion.tokens == 0:
            return
        self._drafts += 1
        share = max(MEMORY, 1.0 / self._drafts)
        off = completion.tokens - self.draft_tokens
        self._spread += share * ((1.0 - share) * off**2 - self._spread)
        self.draft_tokens += share * off
        self.draft_s += share * (seconds - self.draft_s)
        self.tokens_per_byte += share * (generation.prompt_tokens / max(prompt_bytes, 1) - self.tokens_per_byte)
