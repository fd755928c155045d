"""A replay in the terminal: a table of policies, one of link states, and what must be known to read them."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from orchestrator.replay.reading import BUCKETS
from orchestrator.replay.results import CONFIDENCE, LinkRow, Results, Row

COLUMNS = (
    "policy",
    "success",
    "offload",
    "$ per 1,000",
    "priced latency",
    "utility",
    "estimator",
    "effective n",
    "regret: state",
    "request",
)


def policy_table(found: Results) -> Table:
    """Every rule, with the interval of success and utility; dollars are per 1,000 requests."""
    table = Table(title=f"Policies ({CONFIDENCE:.0%} intervals)", title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("policy", "estimator") else "right")
    for row in found.rows:
        table.add_row(*map(Text, cells(row)))
    return table


def link_table(found: Results) -> Table:
    """The largest link states: the best threshold there, and every rule's success and offload share."""
    names = list(found.links[0].means)
    table = Table(title=f"Link states ({BUCKETS})", title_justify="left")
    for name in ("link state", "requests", "labelled", "best τ"):
        table.add_column(name, justify="left" if name == "link state" else "right")
    for name in names:
        table.add_column(Text(name), justify="right")
    for link in found.links:
        best = "" if link.oracle is None else f"{link.oracle:.3f}"
        table.add_row(Text(link.name), str(link.requests), str(link.labelled), best, *_means(link))
    return table


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table of policies, in the order of ``COLUMNS``."""
    mean, low, high = row.best.mean, row.best.low, row.best.high
    return (
        row.name,
        f"{mean.success:.1%} [{100 * low.success:.1f}, {100 * high.success:.1f}]",
        f"{mean.offload:.1%}",
        f"{1e3 * mean.money_usd:.3f}",
        f"{1e3 * mean.latency_usd:.3f}",
        f"{1e3 * mean.utility_usd:.3f} [{1e3 * low.utility_usd:.3f}, {1e3 * high.utility_usd:.3f}]",
        str(row.best.estimator),
        f"{row.best.effective:.0f}",
        f"{1e3 * row.state_regret_usd:.3f}",
        f"{1e3 * row.request_regret_usd:.3f}",
    )


def notes(found: Results) -> Iterator[str]:
    """What the tables rest on, a sentence each."""
    yield (
        f"{found.requests} requests, {found.labelled} with the cloud's answer; right means saying the same as the "
        f"cloud, and the cloud itself is right with policy.objective.cloud_accuracy."
    )
    if found.uncovered:
        yield f"{found.uncovered:.1%} could not be labelled (link down or no audit): for them the scores are believed."
    if found.answered < 1:
        yield f"{1 - found.answered:.1%} of the calls to the cloud failed and are taken as missing at random."
    if found.versions > 1:
        yield f"The scores are those of {found.versions} edge versions: a policy fits only the newest."
    if found.modelled is not None:
        yield f"The cost model prices the labelled calls at {found.modelled:.2f} times what they were billed."
    yield (
        "Regret: $ per 1,000 less than the best threshold of each link state (in hindsight: an upper bound), and "
        "than knowing of each draft whether it is right."
    )
    yield f"On link {found.link}, the least favourable: {found.rise.sentence}"


def _means(link: LinkRow) -> list[Text]:
    return [Text(f"{mean.success:.1%} / {mean.offload:.0%}") for mean in link.means.values()]
