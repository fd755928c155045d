"""How each tool is asked for.

A request is one of the ``cores``, followed in any order by clauses for the arguments the core does not name.
``held`` cores occur in the test split alone. ``nouns`` name an argument in a correction ("make the count 14").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.tasks.values import (
    Sampler,
    choice,
    decimal,
    duration,
    identifier,
    megabits,
    moment,
    site,
    whole,
)


@dataclass(frozen=True, slots=True)
class Intent:
    """The wordings of one tool; ``slots`` in the order of its arguments."""

    slots: Mapping[str, Sampler]
    cores: tuple[str, ...]
    held: tuple[str, ...]
    clauses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    nouns: Mapping[str, str] = field(default_factory=dict)


_CELL, _SLICE, _MODEL = identifier("k", 3), identifier("s", 3), identifier("m", 4)
_METRIC = choice(
    {
        "load": ("load", "utilisation"),
        "throughput": ("throughput", "data rate"),
        "drop_rate": ("drop rate", "share of dropped calls"),
        "latency": ("latency", "delay"),
        "users": ("users", "number of users"),
    }
)

INTENTS: dict[str, Intent] = {
    "select_clients": Intent(
        slots={
            "count": whole(2, 400),
            "strategy": choice(
                {
                    "random": ("random", "at random"),
                    "fastest": ("fastest", "quickest first"),
                    "balanced": ("balanced", "in balance"),
                    "highest_loss": ("highest loss", "worst loss first"),
                }
            ),
            "min_battery": whole(10, 95, 5),
        },
        cores=(
            "select {count} clients",
            "pick {count} clients for the next round",
            "choose {count} clients",
            "take {count} clients",
            "for the round choose {count} clients",
        ),
        held=("the next round wants {count} clients", "get {count} clients"),
        clauses={
            "strategy": ("strategy {strategy}", "by the rule {strategy}", "selection {strategy}"),
            "min_battery": ("battery above {min_battery}", "with at least {min_battery} percent battery"),
        },
        optional=("min_battery",),
        nouns={"count": "the count", "strategy": "the strategy"},
    ),
    "start_round": Intent(
        slots={"round": whole(1, 300), "deadline_s": duration("seconds", 20, 900, 5)},
        cores=("start round {round}", "begin round {round}", "launch round {round}", "kick off training round {round}"),
        held=("set round {round} going", "round {round} should begin"),
        clauses={"deadline_s": ("with a deadline of {deadline_s}", "due in {deadline_s}", "deadline {deadline_s}")},
        optional=("deadline_s",),
        nouns={"round": "the round", "deadline_s": "the deadline"},
    ),
    "aggregate_updates": Intent(
        slots={
            "round": whole(1, 300),
            "method": choice(
                {
                    "fedavg": ("fedavg", "federated averaging"),
                    "fedprox": ("fedprox", "the proximal method"),
                    "median": ("median", "the median"),
                    "trimmed_mean": ("trimmed mean", "the trimmed mean"),
                }
            ),
            "min_updates": whole(2, 200),
        },
        cores=(
            "aggregate the updates of round {round}",
            "combine the updates from round {round}",
            "merge round {round} updates",
            "average the updates of round {round}",
        ),
        held=("bring the updates of round {round} together", "round {round} is in, aggregate it"),
        clauses={
            "method": ("with {method}", "using {method}", "by {method}"),
            "min_updates": ("once {min_updates} updates are in", "needing at least {min_updates} updates"),
        },
        optional=("min_updates",),
        nouns={"round": "the round", "method": "the method"},
    ),
    "evaluate_model": Intent(
        slots={
            "model_id": _MODEL,
            "split": choice(
                {
                    "validation": ("validation", "the validation data"),
                    "test": ("test", "the test data"),
                    "holdout": ("holdout", "the holdout data"),
                }
            ),
        },
        cores=(
            "evaluate {model_id} on {split}",
            "run the evaluation of {model_id} with {split}",
            "how good is {model_id} on {split}",
            "score {model_id} against {split}",
            "measure {model_id} on {split}",
        ),
        held=("on {split}, how does {model_id} do", "check the quality of {model_id} on {split}"),
        nouns={"model_id": "the model", "split": "the split"},
    ),
    "publish_model": Intent(
        slots={
            "model_id": _MODEL,
            "stage": choice(
                {
                    "staging": ("staging", "the staging stage"),
                    "canary": ("canary", "the canary sites"),
                    "production": ("production", "everyone in production"),
                }
            ),
        },
        cores=(
            "publish {model_id} to {stage}",
            "release {model_id} to {stage}",
            "promote model {model_id} to {stage}",
            "ship {model_id} to {stage}",
            "put {model_id} into {stage}",
        ),
        held=("make {model_id} available to {stage}", "{stage} should get {model_id}"),
        nouns={"model_id": "the model", "stage": "the stage"},
    ),
    "set_learning_rate": Intent(
        slots={"model_id": _MODEL, "value": decimal(0.0001, 0.2, 4)},
        cores=(
            "set the learning rate of {model_id} to {value}",
            "use learning rate {value} for {model_id}",
            "train {model_id} with a learning rate of {value}",
            "change {model_id} to learning rate {value}",
        ),
        held=("{model_id} should learn at rate {value}", "learning rate {value} on {model_id} from now on"),
        nouns={"model_id": "the model", "value": "the rate"},
    ),
    "drop_client": Intent(
        slots={
            "client_id": identifier("c", 3),
            "reason": choice(
                {
                    "timeout": ("timeout", "it timed out"),
                    "drift": ("drift", "its data drifts"),
                    "low_battery": ("low battery", "its battery is low"),
                    "bad_update": ("bad update", "it sent a bad update"),
                }
            ),
        },
        cores=(
            "drop client {client_id}, {reason}",
            "exclude {client_id} from training, {reason}",
            "remove {client_id} because of this: {reason}",
            "leave {client_id} out, reason {reason}",
        ),
        held=("we lose {client_id}, {reason}", "{client_id} is out, reason {reason}"),
        nouns={"client_id": "the client", "reason": "the reason"},
    ),
    "quantize_model": Intent(
        slots={
            "model_id": _MODEL,
            "bits": choice({2: ("2 bit", "2 bits"), 4: ("4 bit", "4 bits"), 8: ("8 bit", "a byte"), 16: ("16 bit", "half precision")}),
        },
        cores=(
            "quantize {model_id} to {bits}",
            "compress the weights of {model_id} to {bits}",
            "store {model_id} in {bits}",
            "shrink {model_id} down to {bits}",
        ),
        held=("{model_id} should be kept in {bits}", "bring {model_id} down to {bits}"),
        nouns={"model_id": "the model", "bits": "the precision"},
    ),
    "schedule_round": Intent(
        slots={"start_time": moment, "clients": whole(2, 400)},
        cores=(
            "schedule a round {start_time} with {clients} clients",
            "plan a training round {start_time} for {clients} clients",
            "{start_time} we train with {clients} clients, put it in the plan",
            "book a round with {clients} clients {start_time}",
        ),
        held=("have {clients} clients train {start_time}", "a round with {clients} clients should run {start_time}"),
        nouns={"start_time": "the start", "clients": "the client count"},
    ),
    "rollback_model": Intent(
        slots={"model_id": _MODEL, "version": whole(1, 99)},
        cores=(
            "roll {model_id} back to version {version}",
            "return {model_id} to version {version}",
            "restore version {version} of {model_id}",
            "go back to version {version} on {model_id}",
        ),
        held=("{model_id} must run version {version} again", "bring version {version} of {model_id} back"),
        nouns={"model_id": "the model", "version": "the version"},
    ),
    "provision_link": Intent(
        slots={
            "access_point": identifier("ap", 2),
            "cloud_point": identifier("cp", 1),
            "bandwidth_mbps": megabits,
            "protection": choice({True: ("protected", "with protection"), False: ("unprotected", "without protection")}),
        },
        cores=(
            "provision a link from {access_point} to {cloud_point}",
            "set up a connection from {access_point} to {cloud_point}",
            "connect {access_point} to {cloud_point}",
            "open a line between {access_point} and {cloud_point}",
            "we need a link from {access_point} to {cloud_point}",
        ),
        held=("{access_point} needs a connection to {cloud_point}", "link {access_point} with {cloud_point}"),
        clauses={
            "bandwidth_mbps": ("at {bandwidth_mbps}", "with {bandwidth_mbps}", "bandwidth {bandwidth_mbps}"),
            "protection": ("{protection}", "traffic {protection}"),
        },
        optional=("protection",),
        nouns={"cloud_point": "the cloud point", "access_point": "the access point", "bandwidth_mbps": "the bandwidth"},
    ),
    "move_slice": Intent(
        slots={"slice_id": _SLICE, "target": site},
        cores=(
            "move slice {slice_id} to {target}",
            "migrate {slice_id} to {target}",
            "shift slice {slice_id} over to {target}",
            "relocate {slice_id} to {target}",
            "host {slice_id} at {target}",
        ),
        held=("{slice_id} should live at {target}", "bring slice {slice_id} to {target}"),
        nouns={"slice_id": "the slice", "target": "the site"},
    ),
    "query_cell": Intent(
        slots={"cell_id": _CELL, "metric": _METRIC, "window_min": duration("minutes", 5, 120, 5)},
        cores=(
            "what is the {metric} of cell {cell_id}",
            "show the {metric} of {cell_id}",
            "read {metric} on cell {cell_id}",
            "report the {metric} at {cell_id}",
            "query cell {cell_id} for {metric}",
        ),
        held=("tell me the {metric} for {cell_id}", "{cell_id}: what about the {metric}"),
        clauses={"window_min": ("over the last {window_min}", "for a window of {window_min}", "window {window_min}")},
        optional=("window_min",),
        nouns={"cell_id": "the cell", "metric": "the metric"},
    ),
    "reroute_traffic": Intent(
        slots={"source": site, "target": site, "via": site},
        cores=(
            "reroute traffic from {source} to {target} via {via}",
            "send the traffic from {source} to {target} through {via}",
            "route {source} to {target} over {via}",
            "use {via} between {source} and {target}",
        ),
        held=("{source} to {target} should go by way of {via}", "take {via} for traffic from {source} to {target}"),
        nouns={"source": "the source", "target": "the target", "via": "the detour"},
    ),
    "set_alarm": Intent(
        slots={
            "cell_id": _CELL,
            "metric": _METRIC,
            "threshold": whole(5, 950, 5),
            "severity": choice(
                {"minor": ("minor", "low"), "major": ("major", "serious"), "critical": ("critical", "urgent")}
            ),
        },
        cores=(
            "set an alarm on {cell_id} when the {metric} passes {threshold}",
            "warn if the {metric} of cell {cell_id} exceeds {threshold}",
            "raise an alarm for {cell_id} once {metric} is over {threshold}",
            "alert when {metric} at {cell_id} goes above {threshold}",
        ),
        held=("if {metric} on {cell_id} tops {threshold}, raise an alarm", "alarm at {threshold} for {metric} on {cell_id}"),
        clauses={"severity": ("severity {severity}", "marked {severity}", "as {severity}")},
        optional=("severity",),
        nouns={"cell_id": "the cell", "threshold": "the threshold", "severity": "the severity"},
    ),
    "scale_slice": Intent(
        slots={"slice_id": _SLICE, "cpu": whole(1, 128), "memory_gb": whole(2, 512, 2)},
        cores=(
            "scale slice {slice_id} to {cpu} cores",
            "give {slice_id} {cpu} cores",
            "resize {slice_id} to {cpu} cores",
            "run slice {slice_id} on {cpu} cores",
        ),
        held=("{slice_id} needs {cpu} cores", "{cpu} cores for slice {slice_id}"),
        clauses={"memory_gb": ("with {memory_gb} GB of memory", "memory {memory_gb} GB", "and {memory_gb} GB")},
        optional=("memory_gb",),
        nouns={"slice_id": "the slice", "cpu": "the core count", "memory_gb": "the memory"},
    ),
    "restart_node": Intent(
        slots={"site": site, "time": moment},
        cores=(
            "restart the node at {site}",
            "reboot the {site} node",
            "power cycle {site}",
            "do a restart of {site}",
        ),
        held=("the node at {site} needs a restart", "bring {site} down and up again"),
        clauses={"time": ("{time}", "do it {time}")},
        optional=("time",),
        nouns={"site": "the site", "time": "the time"},
    ),
    "set_power": Intent(
        slots={"cell_id": _CELL, "power_dbm": decimal(5, 46, 1)},
        cores=(
            "set the power of {cell_id} to {power_dbm} dBm",
            "transmit at {power_dbm} dBm on cell {cell_id}",
            "change cell {cell_id} to {power_dbm} dBm",
            "run {cell_id} at {power_dbm} dBm",
        ),
        held=("{cell_id} should send with {power_dbm} dBm", "{power_dbm} dBm for cell {cell_id}"),
        nouns={"cell_id": "the cell", "power_dbm": "the power"},
    ),
    "handover_users": Intent(
        slots={"source_cell": _CELL, "target_cell": _CELL, "count": whole(1, 300)},
        cores=(
            "hand over {count} users from {source_cell} to {target_cell}",
            "move {count} users from cell {source_cell} to cell {target_cell}",
            "shift {count} users off {source_cell} onto {target_cell}",
            "push {count} users from {source_cell} over to {target_cell}",
        ),
        held=("{target_cell} takes {count} users from {source_cell}", "relieve {source_cell}, {count} users go to {target_cell}"),
        nouns={"source_cell": "the source cell", "target_cell": "the target cell", "count": "the count"},
    ),
    "schedule_maintenance": Intent(
        slots={"site": site, "start_time": moment, "duration_min": duration("minutes", 10, 180, 5)},
        cores=(
            "schedule maintenance of {site} {start_time} for {duration_min}",
            "plan work on {site} {start_time}, it takes {duration_min}",
            "book {duration_min} of maintenance for {site} {start_time}",
            "{site} is down for work {start_time}, {duration_min} long",
        ),
        held=("the crew is at {site} {start_time} for {duration_min}", "{duration_min} of work on {site} {start_time}"),
        nouns={"site": "the site", "start_time": "the start", "duration_min": "the duration"},
    ),
    "limit_rate": Intent(
        slots={
            "slice_id": _SLICE,
            "rate_mbps": megabits,
            "direction": choice({"uplink": ("uplink", "upstream"), "downlink": ("downlink", "downstream")}),
        },
        cores=(
            "limit the {direction} of {slice_id} to {rate_mbps}",
            "cap slice {slice_id} at {rate_mbps} {direction}",
            "throttle {slice_id} {direction} to {rate_mbps}",
            "allow {slice_id} at most {rate_mbps} {direction}",
        ),
        held=("no more than {rate_mbps} {direction} for {slice_id}", "hold {slice_id} to {rate_mbps} {direction}"),
        nouns={"slice_id": "the slice", "rate_mbps": "the rate", "direction": "the direction"},
    ),
    "mute_alarm": Intent(
        slots={"alarm_id": identifier("a", 4), "minutes": duration("minutes", 5, 240, 5)},
        cores=(
            "mute alarm {alarm_id} for {minutes}",
            "silence {alarm_id} for {minutes}",
            "keep alarm {alarm_id} quiet for {minutes}",
            "ignore {alarm_id} during {minutes}",
        ),
        held=("no noise from {alarm_id} for {minutes}", "{alarm_id} can be quiet for {minutes}"),
        nouns={"alarm_id": "the alarm", "minutes": "the duration"},
    ),
}
