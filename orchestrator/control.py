"""How ``netgpt models promote`` and ``rollback`` reach the process that serves.

A small HTTP server on this machine alone; where it listens and the token it wants are in ``var/control.json``, which
only its owner may read. An order is answered when it is carried out, or with the sentence that says why not.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from orchestrator import run_file
from policies.errors import NetGPTError

Orders = Mapping[str, Callable[[str], str]]
"""What can be asked for, by name: takes one word (a version, or nothing), returns a sentence, raises NetGPTError."""

MOST_BYTES = 4096  # an order is a word or two
ANSWER_S = 180.0  # a swap that has not ended by then has failed


@contextmanager
def listening(path: Path, orders: Orders) -> Iterator[None]:
    """Carry out ``orders`` while the block runs; ``path`` says where, for ``send``."""
    token = secrets.token_urlsafe(32)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(orders, token))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="control", daemon=True)
    thread.start()
    try:
        run_file.write(path, {"pid": os.getpid(), "port": server.server_port, "token": token})
        yield
    finally:
        run_file.remove(path)
        server.shutdown()
        server.server_close()


def send(path: Path, order: str, word: str = "") -> str:
    """Give an order to the process that wrote ``path``; its answer.

    Raises:
        NetGPTError: none runs, it does not answer, or it says why the order cannot be carried out.
    """
    import httpx  # noqa: PLC0415  (only who sends needs it)

    found = run_file.read(path)
    url = f"http://127.0.0.1:{found['port']}/{order}"
    headers = {"Authorization": f"Bearer {found['token']}"}
    try:
        answer = httpx.post(url, json={"word": word}, headers=headers, timeout=ANSWER_S, trust_env=False)
        said = str(answer.json()["said"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as why:
        raise NetGPTError(f"the system (process {found['pid']}) does not answer: {why!r}") from None
    if not answer.is_success:
        raise NetGPTError(said)
    return said


def _handler(orders: Orders, token: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0  # seconds to send an order; a connection that says nothing holds no thread

        def do_POST(self) -> None:
            given = self.headers.get("Authorization", "")
            if not secrets.compare_digest(given.encode(), f"Bearer {token}".encode()):
                return self._answer(401, "the token is wrong")
            order = orders.get(self.path.removeprefix("/"))
            if order is None:
                return self._answer(404, f"there is no order {self.path}")
            try:
                return self._answer(200, order(self._word()))
            except NetGPTError as why:
                return self._answer(409, str(why))

        def _word(self) -> str:
            size = self.headers.get("Content-Length", "")
            if not size.isdigit() or int(size) > MOST_BYTES:
                raise NetGPTError(f"an order has at most {MOST_BYTES} bytes")
            try:
                return str(json.loads(self.rfile.read(int(size)))["word"])
            except (ValueError, KeyError, TypeError):
                raise NetGPTError("an order is a JSON object with a word") from None

        def _answer(self, status: int, said: str) -> None:
            body = json.dumps({"said": said}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Orders are logged where they are carried out."""

    return Handler
