"""The edge's own proposals: whether one is begun, made to the end, and what it scores.

``Drafter`` belongs to one node: its engine, the scorers of its weights, and the pace it has seen. ``propose`` applies
the decisions before and during a draft (``policies.decide``) against an ``Outlook``, what asking the cloud is worth
now; ``draft`` makes one to the end whatever it costs; ``strict`` is the grammar-bound last resort.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from actors.answer import Draft, Served
from actors.chat import ChatRequest, closed
from actors.draft_pace import DraftPace
from actors.engine import Completion, Engine, Generation, Hear, Watch
from actors.scorer import Proposal
from actors.site_rules import Scorers
from policies.decide import Patience, worth_making
from policies.errors import ContextTooLong, EngineError, NetGPTError
from policies.help_marker import asks_for_help
from policies.toolcalls import parse
from policies.types import CloudWork, Objective, ParsedText, Reason, Route

logger = logging.getLogger(__name__)

BYTES_PER_TOKEN = 4  # of plain text: a guess where no draft has told
NOTHING = Completion("", (), "abandoned", 0)


@dataclass(frozen=True, slots=True)
class DraftOptions:
    """How drafts are made.

    Args:
        samples: per request, the best by score counts; more than one helps only at a temperature above 0.
        before: whether a draft that would almost surely be rejected is not begun.
        during: whether a draft that can no longer be kept is abandoned.
        explore: share of the drafts not worth beginning that are made all the same, so that the log can tell
            when that judgement has become wrong.
    """

    samples: int = 1
    before: bool = True
    during: bool = True
    explore: float = 0.05


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a draft competes with: the threshold it will meet, as far as known before it, and what time is worth."""

    threshold: float
    objective: Objective


class Drafter:
    """Makes the drafts of one node.

    Args:
        engine: the edge model.
        scorers: by version of its weights.
        version: says which weights are live.
        clock: monotonic seconds; ``rng`` draws the explorations.
    """

    def __init__(
        self,
        engine: Engine,
        scorers: Scorers,
        options: DraftOptions,
        version: Callable[[], str],
        clock: Callable[[], float] = time.perf_counter,
        rng: random.Random | None = None,
    ) -> None:
        self._engine, self._scorers, self._options = engine, scorers, options
        self._version, self._clock, self._rng = version, clock, rng or random.Random()
        self.pace = DraftPace()

    def expected_work(self, request: ChatRequest, up_overhead: int, down_overhead: int) -> CloudWork:
        """What the cloud would have to do, before there is a draft: a long answer, so that tau is not overrated."""
        tokens, prompt = self.pace.long_draft, round(self.pace.tokens_per_byte * len(request.payload))
        down = round(tokens * BYTES_PER_TOKEN) + down_overhead
        return CloudWork(len(request.payload) + up_overhead, down, prompt, round(tokens))

    def work(self, request: ChatRequest, draft: Draft, up_overhead: int, down_overhead: int) -> CloudWork:
        """What the cloud would have to do, as far as ``draft`` tells; one that was not made to its end, as usual."""
        tokens, told = draft.completion.tokens, len(draft.completion.text.encode())
        if draft.completion.finish_reason == "abandoned":
            tokens = max(tokens, round(self.pace.draft_tokens))
            told = max(told, tokens * BYTES_PER_TOKEN)
        return CloudWork(len(request.payload) + up_overhead, told + down_overhead, draft.prompt_tokens, tokens)

    async def propose(self, request: ChatRequest, outlook: Outlook | None, hear: Hear | None = None) -> Draft:
        """A draft, as far as it is worth making.

        Args:
            outlook: None says that there is nothing to fall back on; ``hear`` then gets the draft as it comes.

        Raises:
            BadRequest: the edge model cannot be asked this; with an outlook ``ContextTooLong`` is not raised, since
                another model may have the room.
        """
        expected = self._expected(request, self._version())
        if request.controls.route is Route.CLOUD and outlook is not None:
            why = "not begun: the cloud was asked for"
            return replace(self._unfinished(request, why, Reason.DRAFT_SKIPPED), propensity=0.0, expected=expected)
        if outlook is None:
            return await self._make(request, expected, hear=hear)
        explored = 1.0
        if self._options.before and not self._worth_beginning(expected, outlook):
            explored = self._options.explore
            if self._rng.random() >= explored:
                why = "not begun: it would hardly be kept"
                skipped = self._unfinished(request, why, Reason.DRAFT_SKIPPED)
                return replace(skipped, propensity=explored, expected=expected)
        try:
            draft = await self._make(request, expected, self._watch(request, expected, outlook))
        except ContextTooLong as why:
            draft = self._unfinished(request, f"too long for the edge model: {why}", Reason.DRAFT_INVALID)
        return draft if explored == 1.0 else replace(draft, propensity=explored)

    async def draft(self, request: ChatRequest, hear: Hear | None = None) -> Draft:
        """The best of the edge model's proposals; an edge engine that fails proposes nothing valid."""
        return await self._make(request, self._expected(request, self._version()), hear=hear)

    async def _make(
        self, request: ChatRequest, expected: float | None, watch: Watch | None = None, hear: Hear | None = None
    ) -> Draft:
        version = self._version()
        sampling = request.sampling
        if self._options.samples > 1:
            sampling = replace(sampling, n=self._options.samples)  # which one it will be is known at the end
        elif watch is not None or hear is not None:
            sampling = replace(sampling, watch=watch, hear=hear)
        began = self._clock()
        try:
            generation = await self._engine.generate(request.prompt, sampling)
        except EngineError as why:
            logger.warning("the edge model failed, request %s goes to the cloud: %s", request.request_id, why)
            return self._unfinished(request, f"the edge model failed: {why}", Reason.DRAFT_INVALID)
        seconds = self._clock() - began
        self.pace.observe(generation, seconds, len(request.payload))
        if generation.version != version:  # swapped meanwhile: p(x) belongs to the weights that drafted
            expected = self._expected(request, generation.version)
        drafts = [self._judged(request, generation, one, seconds, expected) for one in generation.completions]
        rater = self._scorers.of(generation.version).rater
        if rater is None or not drafts[0].whole:
            return max(drafts, key=lambda draft: (draft.error is None, draft.score))
        proposals = [Proposal(draft.completion, draft.parsed, draft.error is None) for draft in drafts]
        rated = await asyncio.to_thread(rater.score, request.prompt, proposals)
        return replace(drafts[rated.best], score=float(rated.scores[rated.best]))

    async def strict(self, request: ChatRequest, draft: str) -> Served | None:
        """The last resort where a grammar can say what is valid: an answer whose score would mean nothing."""
        prompt = request.strict_prompt(draft)
        if prompt is None:
            return None
        try:
            generation = await self._engine.generate(prompt, request.sampling)
        except NetGPTError as why:
            logger.warning("no draft under a grammar for request %s: %s", request.request_id, why)
            return None
        text = closed(generation.completions[0].text)
        parsed = parse(text)
        return None if request.problem(parsed) else Served.generation(generation, text, parsed)

    def _expected(self, request: ChatRequest, version: str) -> float | None:
        return self._scorers.of(version).expected(request.question, len(request.shown_tools))

    def _worth_beginning(self, expected: float | None, outlook: Outlook) -> bool:
        forecast = self._scorers.of(self._version()).forecast
        if forecast is None or forecast.spread is None or expected is None or not self.pace.known:
            return True
        gain = forecast.spread.gain(expected, outlook.threshold)
        return worth_making(gain, self.pace.draft_s, outlook.objective)

    def _watch(self, request: ChatRequest, expected: float | None, outlook: Outlook) -> Watch | None:
        scorer = self._scorers.of(self._version())
        if not self._options.during or self._options.samples > 1 or not self.pace.known or scorer.rater:
            return None  # the bound is one on calibrated log-probabilities
        return Patience(scorer.bound.given(expected), outlook.threshold, request.sampling.max_tokens)

    def _unfinished(self, request: ChatRequest, why: str, reason: Reason) -> Draft:
        per_byte = self.pace.tokens_per_byte if self.pace.known else 1 / BYTES_PER_TOKEN
        guess = round(per_byte * len(request.payload))
        return Draft(NOTHING, ParsedText(""), why, 0.0, self._version(), guess, 0.0, reason)

    def _judged(
        self,
        request: ChatRequest,
        generation: Generation,
        completion: Completion,
        seconds: float,
        expected: float | None,
    ) -> Draft:
        parsed = parse(completion.text)
        problem: str | None
        unusable: Reason | None
        if completion.finish_reason == "abandoned":
            problem, unusable = "abandoned: it could no longer be kept", Reason.DRAFT_ABANDONED
        elif asks_for_help(completion.text):
            problem, unusable = "the model asked for help", Reason.DRAFT_ASKED_HELP
        else:
            problem = request.problem(parsed)
            unusable = Reason.DRAFT_INVALID if problem else None
        version, prompt_tokens = generation.version, generation.prompt_tokens
        score = self._scorers.of(version).score(completion.logprobs, problem is None, expected)
        return Draft(completion, parsed, problem, score, version, prompt_tokens, seconds, unusable, expected=expected)
