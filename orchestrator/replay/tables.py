"""A replay in the terminal: a table of policies, one of link states, and what must be known to read them."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from orchestrator.replay.reading import BUCKETS
from orchestrator.replay.results import CONFIDENCE, LinkRow, Results, Row
from orchestrator.screening import said

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
    """Every rule in 80 columns; dollars are per 1,000 requests. ``cells`` has more, for the page."""
    title = f"Policies, per 1,000 requests ({found.rows[0].best.estimator}, {CONFIDENCE:.0%} interval of success)"
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for name in ("policy", "success", "interval", "offload", "money $", "wait $", "utility $", "regret $"):
        table.add_column(name, justify="left" if name == "policy" else "right", no_wrap=True)
    for row in found.rows:
        mean, low, high = row.best.mean, row.best.low, row.best.high
        table.add_row(
            Text(row.name),
            f"{mean.success:.1%}",
            f"{100 * low.success:.1f}-{100 * high.success:.1f}",
            f"{mean.offload:.1%}",
            *(f"{1e3 * usd:.3f}" for usd in (mean.money_usd, mean.latency_usd, mean.utility_usd, row.state_regret_usd)),
        )
    return table


def link_table(found: Results) -> Table:
    """The largest link states: the best threshold there, and every rule's success and offloads, in percent."""
    names = list(found.links[0].means)
    title = f"Link states: success / offloads, % ({BUCKETS})"
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for name, width in (("link state", 18), ("n", 4), ("best τ", 6)):
        table.add_column(name, justify="left" if name == "link state" else "right", no_wrap=True, min_width=width)
    for name in names:
        table.add_column(Text(name), justify="right", min_width=6)
    for link in found.links:
        best = "" if link.oracle is None else f"{link.oracle:.3f}"
        table.add_row(Text(link.name), str(link.requests), best, *_means(link))
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
    if found.left_out:
        yield said(found.left_out)
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
    return [Text(f"{100 * mean.success:.0f}/{100 * mean.offload:.0f}") for mean in link.means.values()]
