"""One vLLM server that several sites share: the base is in memory once, and each site's adapter beside it.

The server is started by whoever owns the machine, for instance

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve DIR --enable-lora --max-loras 8 --api-key KEY

Prompts are rendered here, with the chat template of ``DIR``, and sent as tokens, so that drafts are what an engine in
this process would answer: grammars and prefills included. Every request names its site's adapter and is answered with
that adapter's version; requests of different adapters share a batch. To swap is to load some hundred kilobytes: other
sites do not notice, and requests in flight end on the adapter they began with. The price is speed: on CPU an adapter
beside its base decodes at 40 % of the pace of merged weights (bundled edge model, batches of 1 and 16). So it is for
models of which a machine holds one copy only; where every site can have its own, ``vllm_engine`` merges. A site cannot
leave the base: for another one the server is started anew. An abandoned draft (``Sampling.watch``) goes on to its end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from operator import itemgetter
from pathlib import Path
from typing import Any

from actors.adapter_base import base_of, whole
from actors.endpoint import MALFORMED, Endpoint, Reply, cached_tokens, finish_reason, sampling_fields
from actors.engine import Completion, Generation, LoadReport, Prompt, Sampling, Token
from actors.engine_settings import RemoteSettings
from actors.grammar import json_grammar
from actors.model_store import weight_digests
from actors.rendering import Renderer
from actors.weights import check_adapter, read_shapes
from policies.errors import EngineError, Refused

logger = logging.getLogger(__name__)

ALLOW = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
NOT_FOUND = 404  # the server has no such path until it is allowed
KEPT = 2  # adapters of a site that the server knows: the live one, and the one before for requests still under way


class AdapterServer:
    """One site's ``Engine`` on the shared server.

    Args:
        base_url: of the server, up to and with /v1.
        base: directory of the model that it serves, readable here.
        site: names the site's adapters there, beside those of others.
        settings: key and time limits.
    """

    def __init__(self, base_url: str, base: Path, site: str, settings: RemoteSettings | None = None) -> None:
        self._http = Endpoint(base_url, settings or RemoteSettings())
        self._base, self._site = base, site
        self._loaded: list[str] = []  # the server's names of this site's adapters, the newest last
        self.version = ""

    async def setup(self, path: Path, version: str, max_model_len: int | None = None) -> None:
        """Find the base on the server and make ``path`` live: the base itself, or an adapter of it.

        Raises:
            EngineError: the server cannot be reached, serves another model, or does not take adapters.
        """
        card = _base_card(await self._http.get("/models"), self._http.url("/models"))
        await asyncio.to_thread(_check_served, Path(str(card.get("root"))), self._base, self._http.url(""))
        limits = [n for n in (card.get("max_model_len"), max_model_len) if n]
        self._name = self._base_name = str(card["id"])
        self._renderer = await asyncio.to_thread(Renderer, self._base, min(limits, default=None))
        self._shapes = await asyncio.to_thread(read_shapes, self._base)
        await self.load(path, version)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """See ``Engine``. Under a schema with a prefill, the schema holds for what follows the prefill."""
        started = time.perf_counter()
        name, version = self._name, self.version
        ids = await self._renderer.render_aside(prompt, sampling.max_tokens)
        reply = await self._http.post("/completions", _body(name, ids, prompt, sampling))
        url, named = self._http.url("/completions"), sampling.alternatives is not None
        completions, cached = _completions(reply, prompt.prefill, url, named)
        spent = time.perf_counter() - started
        return Generation(completions, len(ids), version, spent, reply.up_bytes, reply.down_bytes, cached)

    async def load(self, path: Path, version: str) -> LoadReport:
        """See ``Engine``; only this site's requests are concerned, those that come after it."""
        began = time.perf_counter()
        if await asyncio.to_thread(self._is_base, path):
            self._name = self._base_name
        else:
            name = f"{self._site}/{version}"
            where = await asyncio.to_thread(path.resolve)
            body = {"lora_name": name, "lora_path": str(where), "load_inplace": True}
            try:
                await self._http.post("/load_lora_adapter", body)
            except Refused as why:
                fix = "" if why.status != NOT_FOUND else f". Fix: start the server with {ALLOW}=1 and --enable-lora"
                raise EngineError(f"adapter {path}: {why}{fix}") from why
            self._loaded = [*(known for known in self._loaded if known != name), name]
            self._name = name
        self.version = version
        await self._forget(KEPT)
        return LoadReport(version, 0.0, {"live_s": time.perf_counter() - began})

    async def close(self) -> None:
        """Take this site's adapters off the server; the server goes on."""
        try:
            await self._forget(0)
        finally:
            await self._http.close()

    async def _forget(self, keep: int) -> None:
        while len(self._loaded) > keep:
            name = self._loaded.pop(0)
            try:
                await self._http.post("/unload_lora_adapter", {"lora_name": name})
            except EngineError as why:  # it costs the server a little memory until it restarts
                logger.warning("adapter %s stays on its server: %s", name, why)

    def _is_base(self, path: Path) -> bool:
        """Whether ``path`` has the base's own weights, and not an adapter of them that can be loaded."""
        if not _same_weights(whole(path), self._base):
            raise EngineError(f"weights {path}: the sites of this server share {self._base} and cannot leave it")
        check_adapter(path, self._shapes)
        return base_of(path) is None


def _base_card(reply: Reply, url: str) -> dict[str, Any]:
    """What the server says of the one model that is no adapter."""
    try:
        cards: list[dict[str, Any]] = [card for card in json.loads(reply.body)["data"] if not card.get("parent")]
        return cards[0]
    except MALFORMED as why:
        raise EngineError(f"{url}: not a list of models: {why!r}") from why


def _check_served(served: Path, base: Path, url: str) -> None:
    """Where the server's directory can be read here, it must have the base's weights."""
    if served.is_dir() and not _same_weights(served, base):
        raise EngineError(f"{url} serves {served}, not the weights of {base}. Fix: start it with the latter")


def _same_weights(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve() or weight_digests(one) == weight_digests(other)


def _body(model: str, ids: list[int], prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": ids,
        **sampling_fields(sampling),
        "logprobs": sampling.alternatives or 0,  # besides the chosen token's
        "structured_outputs": {"grammar": json_grammar(prompt.schema)} if prompt.schema is not None else None,
    }


def _completions(reply: Reply, prefill: str, url: str, named: bool) -> tuple[tuple[Completion, ...], int]:
    """The answers in their order, and how many tokens of the prompt were cached."""
    try:
        data = json.loads(reply.body)
        choices = sorted(data["choices"], key=lambda choice: int(choice["index"]))
        found = tuple(_completion(choice, prefill, named) for choice in choices)
        return found, cached_tokens(data.get("usage") or {})
    except MALFORMED as why:
        raise EngineError(f"{url}: its answer is not a completion: {why!r}") from why


def _completion(choice: dict[str, Any], prefill: str, named: bool) -> Completion:
    told = choice["logprobs"]
    logprobs = tuple(float(logprob) for logprob in told["token_logprobs"])
    tokens = tuple(map(_token, told["tokens"], logprobs, told["top_logprobs"])) if named else ()
    why = finish_reason(choice["finish_reason"])
    return Completion(prefill + str(choice["text"]), logprobs, why, len(logprobs), tokens)


def _token(text: str, logprob: float, top: dict[str, float]) -> Token:
    return Token(text, logprob, tuple(sorted(top.items(), key=itemgetter(1), reverse=True)))
