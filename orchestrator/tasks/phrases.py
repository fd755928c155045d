"""How each tool is asked for.

A request is one of the ``cores`` with one of the ``verbs``, followed in any order by clauses for the arguments the core
does not name. About every fifth pair of verb and core belongs to the test splits, so a test request is worded in a way
training never saw, of words it did. ``novel`` cores are of other words as well: the open split alone has them.
``nouns`` name an argument in a correction ("make the count 14").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    verbs: tuple[str, ...]
    cores: tuple[str, ...]
    novel: tuple[str, ...]
    clauses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    nouns: Mapping[str, str] = field(default_factory=dict)

    def wordings(self, held: bool) -> list[str]:
        """The cores with their verbs filled in that belong to the test splits, or to training."""
        return [text for text, is_held in split_wordings(self.verbs, self.cores) if is_held == held]


def split_wordings(verbs: Sequence[str], cores: Sequence[str]) -> list[tuple[str, bool]]:
    """Every pair of verb and core, and whether it is held out: one verb of each core."""
    count = len(verbs)
    return [
        (core.replace("{do}", verb), (row + column) % count == count - 1)
        for row, core in enumerate(cores)
        for column, verb in enumerate(verbs)
    ]


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
        verbs=("select", "pick", "choose", "take", "draw"),
        cores=(
            "{do} {count} clients",
            "{do} {count} clients for the next round",
            "for the round {do} {count} clients",
            "{count} clients, {do} them",
        ),
        novel=("the next round wants {count} clients", "get {count} clients"),
        clauses={
            "strategy": ("strategy {strategy}", "by the rule {strategy}", "selection {strategy}"),
            "min_battery": ("battery above {min_battery}", "with at least {min_battery} percent battery"),
        },
        optional=("min_battery",),
        nouns={"count": "the count", "strategy": "the strategy"},
    ),
    "start_round": Intent(
        slots={"round": whole(1, 300), "deadline_s": duration("seconds", 20, 900, 5)},
        verbs=("start", "begin", "launch", "kick off", "open"),
        cores=(
            "{do} round {round}",
            "{do} training round {round}",
            "round {round}, {do} it",
            "{do} round number {round}",
        ),
        novel=("set round {round} going", "round {round} should begin"),
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
        verbs=("aggregate", "combine", "merge", "average", "join"),
        cores=(
            "{do} the updates of round {round}",
            "{do} round {round} updates",
            "round {round} is in, {do} it",
            "{do} what came in for round {round}",
        ),
        novel=("bring the updates of round {round} together", "round {round} is in, aggregate it"),
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
        verbs=("evaluate", "score", "measure", "check", "assess"),
        cores=(
            "{do} {model_id} on {split}",
            "{do} model {model_id} with {split}",
            "on {split} {do} {model_id}",
            "{do} how good {model_id} is on {split}",
        ),
        novel=("on {split}, how does {model_id} do", "check the quality of {model_id} on {split}"),
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
        verbs=("publish", "release", "promote", "ship", "deploy"),
        cores=(
            "{do} {model_id} to {stage}",
            "{do} model {model_id} to {stage}",
            "{model_id} is ready, {do} it to {stage}",
            "to {stage} {do} {model_id}",
        ),
        novel=("make {model_id} available to {stage}", "{stage} should get {model_id}"),
        nouns={"model_id": "the model", "stage": "the stage"},
    ),
    "set_learning_rate": Intent(
        slots={"model_id": _MODEL, "value": decimal(0.0001, 0.2, 4)},
        verbs=("set", "change", "adjust", "move"),
        cores=(
            "{do} the learning rate of {model_id} to {value}",
            "for {model_id} {do} the learning rate to {value}",
            "{do} {model_id} to learning rate {value}",
            "{do} the rate at which {model_id} learns to {value}",
        ),
        novel=("{model_id} should learn at rate {value}", "learning rate {value} on {model_id} from now on"),
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
        verbs=("drop", "exclude", "remove", "ban"),
        cores=(
            "{do} client {client_id}, {reason}",
            "{do} {client_id} from training, {reason}",
            "{client_id} must go, {reason}, {do} it",
            "{do} {client_id}, reason {reason}",
        ),
        novel=("we lose {client_id}, {reason}", "{client_id} is out, reason {reason}"),
        nouns={"client_id": "the client", "reason": "the reason"},
    ),
    "quantize_model": Intent(
        slots={
            "model_id": _MODEL,
            "bits": choice(
                {
                    2: ("2 bit", "2 bits"),
                    4: ("4 bit", "4 bits"),
                    8: ("8 bit", "a byte"),
                    16: ("16 bit", "half precision"),
                }
            ),
        },
        verbs=("quantize", "compress", "shrink", "reduce"),
        cores=(
            "{do} {model_id} to {bits}",
            "{do} the weights of {model_id} to {bits}",
            "{model_id} is too big, {do} it to {bits}",
            "{do} model {model_id} down to {bits}",
        ),
        novel=("{model_id} should be kept in {bits}", "bring {model_id} down to {bits}"),
        nouns={"model_id": "the model", "bits": "the precision"},
    ),
    "schedule_round": Intent(
        slots={"start_time": moment, "clients": whole(2, 400)},
        verbs=("schedule", "plan", "book", "arrange"),
        cores=(
            "{do} a round {start_time} with {clients} clients",
            "{do} a training round {start_time} for {clients} clients",
            "{start_time} {do} a round of {clients} clients",
            "with {clients} clients {do} a round {start_time}",
        ),
        novel=("have {clients} clients train {start_time}", "a round with {clients} clients should run {start_time}"),
        nouns={"start_time": "the start", "clients": "the client count"},
    ),
    "rollback_model": Intent(
        slots={"model_id": _MODEL, "version": whole(1, 99)},
        verbs=("roll", "take", "bring", "put"),
        cores=(
            "{do} {model_id} back to version {version}",
            "{do} model {model_id} back to version {version}",
            "{model_id} is broken, {do} it back to version {version}",
            "back to version {version}, {do} {model_id} there",
        ),
        novel=("{model_id} must run version {version} again", "bring version {version} of {model_id} back"),
        nouns={"model_id": "the model", "version": "the version"},
    ),
    "provision_link": Intent(
        slots={
            "access_point": identifier("ap", 2),
            "cloud_point": identifier("cp", 1),
            "bandwidth_mbps": megabits,
            "protection": choice(
                {True: ("protected", "with protection"), False: ("unprotected", "without protection")}
            ),
        },
        verbs=("provision", "set up", "open", "create", "build"),
        cores=(
            "{do} a link from {access_point} to {cloud_point}",
            "{do} a connection between {access_point} and {cloud_point}",
            "from {access_point} to {cloud_point} {do} a link",
            "{do} a line from {access_point} to {cloud_point}",
        ),
        novel=("{access_point} needs a connection to {cloud_point}", "link {access_point} with {cloud_point}"),
        clauses={
            "bandwidth_mbps": ("at {bandwidth_mbps}", "with {bandwidth_mbps}", "bandwidth {bandwidth_mbps}"),
            "protection": ("{protection}", "traffic {protection}"),
        },
        optional=("protection",),
        nouns={"cloud_point": "the cloud point", "access_point": "the access point", "bandwidth_mbps": "the bandwidth"},
    ),
    "move_slice": Intent(
        slots={"slice_id": _SLICE, "target": site},
        verbs=("move", "migrate", "shift", "relocate", "bring"),
        cores=(
            "{do} slice {slice_id} to {target}",
            "{do} {slice_id} over to {target}",
            "{slice_id} is slow, {do} it to {target}",
            "to {target} {do} slice {slice_id}",
        ),
        novel=("{slice_id} should live at {target}", "bring slice {slice_id} to {target}"),
        nouns={"slice_id": "the slice", "target": "the site"},
    ),
    "query_cell": Intent(
        slots={"cell_id": _CELL, "metric": _METRIC, "window_min": duration("minutes", 5, 120, 5)},
        verbs=("show", "read", "report", "query", "tell me"),
        cores=(
            "{do} the {metric} of cell {cell_id}",
            "{do} the {metric} of {cell_id}",
            "{do} {metric} on cell {cell_id}",
            "for {cell_id} {do} the {metric}",
        ),
        novel=("tell me the {metric} for {cell_id}", "{cell_id}: what about the {metric}"),
        clauses={"window_min": ("over the last {window_min}", "for a window of {window_min}", "window {window_min}")},
        optional=("window_min",),
        nouns={"cell_id": "the cell", "metric": "the metric"},
    ),
    "reroute_traffic": Intent(
        slots={"source": site, "target": site, "via": site},
        verbs=("reroute", "send", "route", "direct"),
        cores=(
            "{do} traffic from {source} to {target} via {via}",
            "{do} the traffic from {source} to {target} through {via}",
            "{do} {source} to {target} over {via}",
            "from {source} to {target} {do} everything via {via}",
        ),
        novel=("{source} to {target} should go by way of {via}", "take {via} for traffic from {source} to {target}"),
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
        verbs=("set an alarm", "raise an alarm", "warn", "alert"),
        cores=(
            "{do} on {cell_id} when the {metric} passes {threshold}",
            "{do} if the {metric} of cell {cell_id} exceeds {threshold}",
            "{do} for {cell_id} once {metric} is over {threshold}",
            "when {metric} at {cell_id} goes above {threshold} {do}",
        ),
        novel=(
            "if {metric} on {cell_id} tops {threshold}, raise an alarm",
            "alarm at {threshold} for {metric} on {cell_id}",
        ),
        clauses={"severity": ("severity {severity}", "marked {severity}", "as {severity}")},
        optional=("severity",),
        nouns={"cell_id": "the cell", "threshold": "the threshold", "severity": "the severity"},
    ),
    "scale_slice": Intent(
        slots={"slice_id": _SLICE, "cpu": whole(1, 128), "memory_gb": whole(2, 512, 2)},
        verbs=("scale", "resize", "set", "grow"),
        cores=(
            "{do} slice {slice_id} to {cpu} cores",
            "{do} {slice_id} to {cpu} cores",
            "slice {slice_id} is short, {do} it to {cpu} cores",
            "to {cpu} cores {do} slice {slice_id}",
        ),
        novel=("{slice_id} needs {cpu} cores", "{cpu} cores for slice {slice_id}"),
        clauses={"memory_gb": ("with {memory_gb} GB of memory", "memory {memory_gb} GB", "and {memory_gb} GB")},
        optional=("memory_gb",),
        nouns={"slice_id": "the slice", "cpu": "the core count", "memory_gb": "the memory"},
    ),
    "restart_node": Intent(
        slots={"site": site, "time": moment},
        verbs=("restart", "reboot", "power cycle", "reset"),
        cores=("{do} the node at {site}", "{do} the {site} node", "the node at {site} hangs, {do} it", "{do} {site}"),
        novel=("the node at {site} needs a restart", "bring {site} down and up again"),
        clauses={"time": ("{time}", "do it {time}")},
        optional=("time",),
        nouns={"site": "the site", "time": "the time"},
    ),
    "set_power": Intent(
        slots={"cell_id": _CELL, "power_dbm": decimal(5, 46, 1)},
        verbs=("set", "change", "adjust", "turn"),
        cores=(
            "{do} the power of {cell_id} to {power_dbm} dBm",
            "{do} cell {cell_id} to {power_dbm} dBm",
            "for cell {cell_id} {do} the power to {power_dbm} dBm",
            "to {power_dbm} dBm {do} {cell_id}",
        ),
        novel=("{cell_id} should send with {power_dbm} dBm", "{power_dbm} dBm for cell {cell_id}"),
        nouns={"cell_id": "the cell", "power_dbm": "the power"},
    ),
    "handover_users": Intent(
        slots={"source_cell": _CELL, "target_cell": _CELL, "count": whole(1, 300)},
        verbs=("hand over", "move", "shift", "push"),
        cores=(
            "{do} {count} users from {source_cell} to {target_cell}",
            "{do} {count} users from cell {source_cell} to cell {target_cell}",
            "{source_cell} is full, {do} {count} users to {target_cell}",
            "from {source_cell} {do} {count} users to {target_cell}",
        ),
        novel=(
            "{target_cell} takes {count} users from {source_cell}",
            "relieve {source_cell}, {count} users go to {target_cell}",
        ),
        nouns={"source_cell": "the source cell", "target_cell": "the target cell", "count": "the count"},
    ),
    "schedule_maintenance": Intent(
        slots={"site": site, "start_time": moment, "duration_min": duration("minutes", 10, 180, 5)},
        verbs=("schedule", "plan", "book", "announce"),
        cores=(
            "{do} maintenance of {site} {start_time} for {duration_min}",
            "{do} work on {site} {start_time}, it takes {duration_min}",
            "{do} {duration_min} of maintenance for {site} {start_time}",
            "at site {site} {do} {duration_min} of work {start_time}",
        ),
        novel=(
            "the crew is at {site} {start_time} for {duration_min}",
            "{duration_min} of work on {site} {start_time}",
        ),
        nouns={"site": "the site", "start_time": "the start", "duration_min": "the duration"},
    ),
    "limit_rate": Intent(
        slots={
            "slice_id": _SLICE,
            "rate_mbps": megabits,
            "direction": choice({"uplink": ("uplink", "upstream"), "downlink": ("downlink", "downstream")}),
        },
        verbs=("limit", "cap", "throttle", "restrict"),
        cores=(
            "{do} the {direction} of {slice_id} to {rate_mbps}",
            "{do} slice {slice_id} {direction} to {rate_mbps}",
            "{slice_id} takes too much, {do} its {direction} to {rate_mbps}",
            "to {rate_mbps} {do} the {direction} of {slice_id}",
        ),
        novel=("no more than {rate_mbps} {direction} for {slice_id}", "hold {slice_id} to {rate_mbps} {direction}"),
        nouns={"slice_id": "the slice", "rate_mbps": "the rate", "direction": "the direction"},
    ),
    "mute_alarm": Intent(
        slots={"alarm_id": identifier("a", 4), "minutes": duration("minutes", 5, 240, 5)},
        verbs=("mute", "silence", "quiet", "ignore"),
        cores=(
            "{do} alarm {alarm_id} for {minutes}",
            "{do} {alarm_id} for {minutes}",
            "alarm {alarm_id} is known, {do} it for {minutes}",
            "for {minutes} {do} {alarm_id}",
        ),
        novel=("no noise from {alarm_id} for {minutes}", "{alarm_id} can be quiet for {minutes}"),
        nouns={"alarm_id": "the alarm", "minutes": "the duration"},
    ),
}
