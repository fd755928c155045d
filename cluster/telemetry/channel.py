"""Options of the gRPC channel, on which both ends must agree: keepalive, reconnecting, sizes.

A link that dies without a word is noticed by pings within 1.5 times ``KEEPALIVE_S``; the client then
connects anew, waiting at most ``RECONNECT_MAX_S`` between attempts.
"""

from __future__ import annotations

KEEPALIVE_S = 10.0  # pause between pings, of 17 bytes each way; half of it is the patience for an answer
RECONNECT_MIN_S, RECONNECT_MAX_S = 0.2, 2.0  # one site retrying every 2 s costs a few hundred bytes
CONNECT_TIMEOUT_S = 5.0  # longer than any round trip through a full queue
MAX_MESSAGE_BYTES = 256 * 1024
MAX_PROBE_BYTES = 64 * 1024  # padding of one probe, either way
MAX_NAME = 128  # characters of a site or version name

Options = list[tuple[str, int]]


def client_options(keepalive_s: float = KEEPALIVE_S) -> Options:
    """What a site's channel is made with."""
    return [
        *_common_options(keepalive_s),
        ("grpc.initial_reconnect_backoff_ms", _ms(RECONNECT_MIN_S)),
        ("grpc.min_reconnect_backoff_ms", _ms(CONNECT_TIMEOUT_S)),  # in spite of its name
        ("grpc.max_reconnect_backoff_ms", _ms(RECONNECT_MAX_S)),
        ("grpc.use_local_subchannel_pool", 1),  # two sites in one process must not share a connection
    ]


def server_options(keepalive_s: float = KEEPALIVE_S) -> Options:
    """What the router's server is made with."""
    return [
        *_common_options(keepalive_s),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _ms(keepalive_s / 2)),
        ("grpc.so_reuseport", 0),  # a taken port is an error, not a second listener
    ]


def _common_options(keepalive_s: float) -> Options:
    return [
        ("grpc.keepalive_time_ms", _ms(keepalive_s)),
        ("grpc.keepalive_timeout_ms", _ms(keepalive_s / 2)),
        ("grpc.http2.ping_timeout_ms", _ms(keepalive_s / 2)),  # gRPC's other pings: else 60 s
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ]


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
