"""What a client's API key lets it do: come in at all, so often, for so many tokens, and for so much of the cloud.

Requests and tokens beyond a key's rate are refused until it has refilled (429 with Retry-After). Dollars are not: once
they are spent the edge answers, since only the cloud costs any; what is in flight at that moment may exceed them. A
request's tokens are taken before it is answered, as many as it may use, and what it did not use goes back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from actors.answer import Answer
from actors.chat import ChatRequest
from orchestrator.endpoint.admission import MOST_S, Priority
from orchestrator.endpoint.keys import KeyRecord, KeyRing
from policies.budget import TokenBucket
from policies.errors import BadRequest, Busy

BYTES_PER_TOKEN = 4  # of a prompt, before it is known
MINUTE_S, DAY_S = 60.0, 86_400.0
BEARER = b"bearer "


class Purse:
    """What one key has left."""

    def __init__(self, record: KeyRecord) -> None:
        self.record = record
        self.requests = _bucket(record.requests_per_minute, MINUTE_S)
        self.tokens = _bucket(record.tokens_per_minute, MINUTE_S)
        self.dollars = _bucket(record.usd_per_day, DAY_S)


@dataclass(frozen=True, slots=True)
class Pass:
    """A client that was let in; ``purse`` is None where no keys are asked for."""

    purse: Purse | None = None
    clock: Callable[[], float] = time.monotonic

    @property
    def priority(self) -> Priority:
        """Which line it waits in."""
        return Priority.BATCH if self.purse and self.purse.record.priority == "batch" else Priority.INTERACTIVE

    def take(self, asked: Sequence[ChatRequest]) -> int:
        """Pay for requests before they are answered; the tokens that were taken, for ``settle``.

        Raises:
            Busy: the key's rate is used up.
            BadRequest: it is too small for one such request.
        """
        if self.purse is None:
            return 0
        tokens = sum(len(one.payload) // BYTES_PER_TOKEN + one.sampling.max_tokens for one in asked)
        self._take(self.purse.tokens, tokens, "tokens_per_minute", "max_tokens")
        try:
            self._take(self.purse.requests, len(asked), "requests_per_minute", "n")
        except (Busy, BadRequest):
            self.settle(tokens, ())
            raise
        return tokens

    def within(self, request: ChatRequest) -> ChatRequest:
        """``request``, which may cost no more than the key has left."""
        if self.purse is None or self.purse.dollars is None:
            return request
        usd = self.purse.dollars.left(self.clock()) * (self.purse.record.usd_per_day or 0.0)
        most = usd if request.controls.max_cost_usd is None else min(request.controls.max_cost_usd, usd)
        return replace(request, controls=replace(request.controls, max_cost_usd=most))

    def settle(self, taken: int, answers: Sequence[Answer]) -> None:
        """Put back what ``answers`` did not use of ``taken``, and pay for what the cloud did."""
        if self.purse is None:
            return
        used = sum(answer.served.prompt_tokens + answer.served.tokens for answer in answers)
        if self.purse.tokens:
            if used <= taken:
                self.purse.tokens.put_back(taken - used)
            else:
                self.purse.tokens.spend(used - taken, self.clock())
        if self.purse.dollars:
            self.purse.dollars.spend(sum(answer.cost_usd for answer in answers), self.clock())

    def _take(self, bucket: TokenBucket | None, amount: int, limit: str, field: str) -> None:
        if bucket is None or bucket.take(amount, self.clock()):
            return
        wait_s = bucket.wait_s(amount)
        if math.isinf(wait_s):
            raise BadRequest(f"this takes {amount}, more than the key's {limit} will ever allow", field, "too_large")
        raise Busy(f"the key's {limit} is used up", math.ceil(min(max(wait_s, 1.0), MOST_S)))


class Gatekeeper:
    """Lets in who has a key of this site.

    Args:
        ring: the keys.
        site: this site's name.
        clock: monotonic seconds.
    """

    def __init__(self, ring: KeyRing, site: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._ring, self._site, self._clock = ring, site, clock
        self._purses: dict[str, Purse] = {}  # of keys in the ring: as many at most

    def admit(self, authorization: bytes) -> Pass:
        """The pass of whoever sent this ``Authorization`` header.

        Raises:
            BadRequest: (401) it is no key, (403) or one of other sites.
        """
        if not authorization.lower().startswith(BEARER):
            raise BadRequest("send an API key as Authorization: Bearer KEY", None, "missing_api_key", 401)
        record = self._ring.find(authorization[len(BEARER) :].decode("latin-1").strip())
        if record is None:
            raise BadRequest("this API key is unknown or was revoked", None, "invalid_api_key", 401)
        if record.sites and self._site not in record.sites:
            raise BadRequest(f"this API key is not for site {self._site}", None, "wrong_site", 403)
        purse = self._purses.get(record.id)
        if purse is None or purse.record != record:
            known = self._ring.ids
            self._purses = {key: kept for key, kept in self._purses.items() if key in known}
            purse = self._purses[record.id] = Purse(record)
        return Pass(purse, self._clock)


class OpenDoor:
    """Lets everybody in: a site without keys."""

    def admit(self, authorization: bytes) -> Pass:  # noqa: ARG002
        """A pass without limits."""
        return EVERYBODY


EVERYBODY = Pass()


def _bucket(limit: float | None, window_s: float) -> TokenBucket | None:
    return None if limit is None else TokenBucket(limit, window_s)
