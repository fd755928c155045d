"""The 22 tools a task can offer: federated-learning workflow and network operations.

Names and argument types are fixed; each is an OpenAI function tool with a closed JSON Schema.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_TIME: Schema = {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"}
_TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": 40}
_METRIC: Schema = {"type": "string", "enum": ["load", "throughput", "drop_rate", "latency", "users"]}


def _id(prefix: str, what: str) -> Schema:
    return {"type": "string", "description": f"{what} id, such as {prefix}-204", "maxLength": 16}


def _int(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def _number(low: float, high: float, unit: str) -> Schema:
    return {"type": "number", "minimum": low, "maximum": high, "description": unit}


def _enum(*values: Any) -> Schema:
    return {"type": "integer" if isinstance(values[0], int) else "string", "enum": list(values)}


def _tool(name: str, description: str, optional: tuple[str, ...] = (), **arguments: Schema) -> Schema:
    parameters = {
        "type": "object",
        "properties": arguments,
        "required": [key for key in arguments if key not in optional],
        "additionalProperties": False,
    }
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


_WORKFLOW = (
    _tool(
        "select_clients",
        "Choose the clients of the next federated round.",
        ("min_battery",),
        count=_int(1, 999),
        strategy=_enum("random", "fastest", "balanced", "highest_loss"),
        min_battery=_int(1, 100),
    ),
    _tool("start_round", "Start a federated round.", ("deadline_s",), round=_int(1, 999), deadline_s=_int(10, 7200)),
    _tool(
        "aggregate_updates",
        "Aggregate the client updates of a round.",
        ("min_updates",),
        round=_int(1, 999),
        method=_enum("fedavg", "fedprox", "median", "trimmed_mean"),
        min_updates=_int(1, 999),
    ),
    _tool(
        "evaluate_model",
        "Evaluate a model on a data split.",
        model_id=_id("m", "model"),
        split=_enum("validation", "test", "holdout"),
    ),
    _tool(
        "publish_model",
        "Publish a model to a stage.",
        model_id=_id("m", "model"),
        stage=_enum("staging", "canary", "production"),
    ),
    _tool(
        "set_learning_rate",
        "Set the learning rate of a model's training.",
        model_id=_id("m", "model"),
        value=_number(0, 1, "learning rate"),
    ),
    _tool(
        "drop_client",
        "Exclude a client from training.",
        client_id=_id("c", "client"),
        reason=_enum("timeout", "drift", "low_battery", "bad_update"),
    ),
    _tool("quantize_model", "Quantize a model's weights.", model_id=_id("m", "model"), bits=_enum(2, 4, 8, 16)),
    _tool(
        "schedule_round",
        "Plan a federated round for later today.",
        start_time=_TIME,
        clients=_int(1, 999),
    ),
    _tool(
        "rollback_model",
        "Return a model to an earlier version.",
        model_id=_id("m", "model"),
        version=_int(1, 999),
    ),
)
_NETWORK = (
    _tool(
        "provision_link",
        "Provision a link between an access point and a cloud point.",
        ("protection",),
        access_point=_id("ap", "access point"),
        cloud_point=_id("cp", "cloud point"),
        bandwidth_mbps=_number(1, 100000, "Mbit/s"),
        protection={"type": "boolean"},
    ),
    _tool("move_slice", "Move a network slice to another site.", slice_id=_id("s", "slice"), target=_TEXT),
    _tool(
        "query_cell",
        "Read a metric of a cell.",
        ("window_min",),
        cell_id=_id("k", "cell"),
        metric=_METRIC,
        window_min=_int(1, 1440),
    ),
    _tool("reroute_traffic", "Route traffic between two sites via a third.", source=_TEXT, target=_TEXT, via=_TEXT),
    _tool(
        "set_alarm",
        "Raise an alarm when a cell's metric passes a threshold.",
        ("severity",),
        cell_id=_id("k", "cell"),
        metric=_METRIC,
        threshold=_number(0, 100000, "in the metric's unit"),
        severity=_enum("minor", "major", "critical"),
    ),
    _tool(
        "scale_slice",
        "Change the resources of a network slice.",
        ("memory_gb",),
        slice_id=_id("s", "slice"),
        cpu=_int(1, 512),
        memory_gb=_int(1, 4096),
    ),
    _tool("restart_node", "Restart the node of a site.", ("time",), site=_TEXT, time=_TIME),
    _tool(
        "set_power",
        "Set the transmission power of a cell.",
        cell_id=_id("k", "cell"),
        power_dbm=_number(-10, 60, "dBm"),
    ),
    _tool(
        "handover_users",
        "Hand users over from one cell to another.",
        source_cell=_id("k", "cell"),
        target_cell=_id("k", "cell"),
        count=_int(1, 999),
    ),
    _tool(
        "schedule_maintenance",
        "Plan maintenance of a site for later today.",
        site=_TEXT,
        start_time=_TIME,
        duration_min=_int(1, 1440),
    ),
    _tool(
        "limit_rate",
        "Limit the rate of a network slice.",
        slice_id=_id("s", "slice"),
        rate_mbps=_number(1, 100000, "Mbit/s"),
        direction=_enum("uplink", "downlink"),
    ),
    _tool("mute_alarm", "Silence an alarm for a while.", alarm_id=_id("a", "alarm"), minutes=_int(1, 1440)),
)

TOOLS: dict[str, Schema] = {tool["function"]["name"]: tool for tool in (*_WORKFLOW, *_NETWORK)}
WORKFLOW = tuple(tool["function"]["name"] for tool in _WORKFLOW)
NETWORK = tuple(tool["function"]["name"] for tool in _NETWORK)
