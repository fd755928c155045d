from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SiteId(_message.Message):
    __slots__ = ("site",)
    SITE_FIELD_NUMBER: _ClassVar[int]
    site: str
    def __init__(self, site: _Optional[str] = ...) -> None: ...

class LinkReport(_message.Message):
    __slots__ = ("site", "seq", "rtt_ms", "jitter_ms", "up_bps", "down_bps", "loss", "up", "version", "log_seq")
    SITE_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    RTT_MS_FIELD_NUMBER: _ClassVar[int]
    JITTER_MS_FIELD_NUMBER: _ClassVar[int]
    UP_BPS_FIELD_NUMBER: _ClassVar[int]
    DOWN_BPS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    UP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LOG_SEQ_FIELD_NUMBER: _ClassVar[int]
    site: str
    seq: int
    rtt_ms: float
    jitter_ms: float
    up_bps: float
    down_bps: float
    loss: float
    up: bool
    version: str
    log_seq: int
    def __init__(self, site: _Optional[str] = ..., seq: _Optional[int] = ..., rtt_ms: _Optional[float] = ..., jitter_ms: _Optional[float] = ..., up_bps: _Optional[float] = ..., down_bps: _Optional[float] = ..., loss: _Optional[float] = ..., up: _Optional[bool] = ..., version: _Optional[str] = ..., log_seq: _Optional[int] = ...) -> None: ...

class ReportAck(_message.Message):
    __slots__ = ("received",)
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    received: int
    def __init__(self, received: _Optional[int] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("padding", "reply_bytes")
    PADDING_FIELD_NUMBER: _ClassVar[int]
    REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    padding: bytes
    reply_bytes: int
    def __init__(self, padding: _Optional[bytes] = ..., reply_bytes: _Optional[int] = ...) -> None: ...

class ProbeReply(_message.Message):
    __slots__ = ("padding",)
    PADDING_FIELD_NUMBER: _ClassVar[int]
    padding: bytes
    def __init__(self, padding: _Optional[bytes] = ...) -> None: ...

class Directive(_message.Message):
    __slots__ = ("snapshot", "swap")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    SWAP_FIELD_NUMBER: _ClassVar[int]
    snapshot: Snapshot
    swap: Swap
    def __init__(self, snapshot: _Optional[_Union[Snapshot, _Mapping]] = ..., swap: _Optional[_Union[Swap, _Mapping]] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("seq", "ttl_s", "prices", "objective", "speed", "threshold_floor")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    PRICES_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    SPEED_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FLOOR_FIELD_NUMBER: _ClassVar[int]
    seq: int
    ttl_s: float
    prices: Prices
    objective: Objective
    speed: CloudSpeed
    threshold_floor: float
    def __init__(self, seq: _Optional[int] = ..., ttl_s: _Optional[float] = ..., prices: _Optional[_Union[Prices, _Mapping]] = ..., objective: _Optional[_Union[Objective, _Mapping]] = ..., speed: _Optional[_Union[CloudSpeed, _Mapping]] = ..., threshold_floor: _Optional[float] = ...) -> None: ...

class Prices(_message.Message):
    __slots__ = ("request_usd", "input_usd_per_mtok", "cached_usd_per_mtok", "output_usd_per_mtok", "transfer_usd_per_gb")
    REQUEST_USD_FIELD_NUMBER: _ClassVar[int]
    INPUT_USD_PER_MTOK_FIELD_NUMBER: _ClassVar[int]
    CACHED_USD_PER_MTOK_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_USD_PER_MTOK_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_USD_PER_GB_FIELD_NUMBER: _ClassVar[int]
    request_usd: float
    input_usd_per_mtok: float
    cached_usd_per_mtok: float
    output_usd_per_mtok: float
    transfer_usd_per_gb: float
    def __init__(self, request_usd: _Optional[float] = ..., input_usd_per_mtok: _Optional[float] = ..., cached_usd_per_mtok: _Optional[float] = ..., output_usd_per_mtok: _Optional[float] = ..., transfer_usd_per_gb: _Optional[float] = ...) -> None: ...

class Objective(_message.Message):
    __slots__ = ("value_usd", "second_usd", "cloud_accuracy")
    VALUE_USD_FIELD_NUMBER: _ClassVar[int]
    SECOND_USD_FIELD_NUMBER: _ClassVar[int]
    CLOUD_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    value_usd: float
    second_usd: float
    cloud_accuracy: float
    def __init__(self, value_usd: _Optional[float] = ..., second_usd: _Optional[float] = ..., cloud_accuracy: _Optional[float] = ...) -> None: ...

class CloudSpeed(_message.Message):
    __slots__ = ("round_trips", "ttft_s", "per_token_s")
    ROUND_TRIPS_FIELD_NUMBER: _ClassVar[int]
    TTFT_S_FIELD_NUMBER: _ClassVar[int]
    PER_TOKEN_S_FIELD_NUMBER: _ClassVar[int]
    round_trips: float
    ttft_s: float
    per_token_s: float
    def __init__(self, round_trips: _Optional[float] = ..., ttft_s: _Optional[float] = ..., per_token_s: _Optional[float] = ...) -> None: ...

class Swap(_message.Message):
    __slots__ = ("version", "path", "sha256")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    version: str
    path: str
    sha256: str
    def __init__(self, version: _Optional[str] = ..., path: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...
