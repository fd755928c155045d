"""uvicorn's HTTP protocol with patience that ends: a client whose headers never end is let go.

uvicorn bounds the time between two requests and the number of connections, not the time and the size of a request's
headers; a few hundred connections that send a byte now and then would hold all places. Bodies have their own limits
(``asgi``).
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_S = 20.0  # from the connection, or the first byte of a later request, to the end of its headers
HEADERS_BYTES = 64 << 10  # what has come without the headers being whole
TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class PatientProtocol(HttpToolsProtocol):
    """One connection."""

    _late: asyncio.TimerHandle | None = None
    _came = 0  # bytes since headers are expected

    def connection_made(self, transport: Any) -> None:
        """A client is there."""
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Something came."""
        super().data_received(data)
        if self._late is None:
            return
        self._came += len(data)
        if self._came > HEADERS_BYTES:
            self.transport.write(TOO_LONG)
            self._let_go()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._expect_headers()

    def on_headers_complete(self) -> None:
        """Its headers are there."""
        self._expect_nothing()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._expect_nothing()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        self._expect_nothing()
        self._late, self._came = self.loop.call_later(HEADERS_S, self._let_go), 0

    def _expect_nothing(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _let_go(self) -> None:
        self._expect_nothing()
        self.transport.close()
