"""The ``netgpt`` command: demo, serve, status, ask, replay, train ..., models ..., keys ....

Every command imports what it needs when it runs, so ``--help`` is instant. A mistake of the user's or a part that
fails is one sentence on stderr and exit code 2, never a traceback.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policies.errors import NetGPTError

if TYPE_CHECKING:
    from actors.model_store import ModelStore
    from orchestrator.config import Config

app = typer.Typer(
    name="netgpt",
    help="A small model at the edge, a large one in the cloud, one OpenAI endpoint in front of both.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

train = typer.Typer(help="Fit what decides.", no_args_is_help=True)
app.add_typer(train, name="train")
models = typer.Typer(help="The versions of the edge model: what they are, and which one runs.", no_args_is_help=True)
app.add_typer(models, name="models")
keys = typer.Typer(help="API keys, for a site whose configuration asks for them (site.keys).", no_args_is_help=True)
app.add_typer(keys, name="keys")

FAILED = 2
OURS = ("orchestrator", "actors", "cluster", "policies")
FULL_INSTALL = (
    "The base install is the client alone (netgpt ask, netgpt status). "
    "Fix: install requirements/cpu.txt as its README says, or netgpt-orchestrator[gpu]"
)


class PolicyKind(StrEnum):
    """What ``train policy`` can fit."""

    OPTIMAL = "optimal"
    FUNCDYN = "funcdyn"
    POLICYNET = "policynet"


class ScorerKind(StrEnum):
    """What ``train scorer`` can fit."""

    PREFERENCE = "preference"
    ENSEMBLE = "ensemble"


class AskedRoute(StrEnum):
    """Whom ``ask`` can name."""

    AUTO = "auto"
    EDGE = "edge"
    CLOUD = "cloud"


class Method(StrEnum):
    """How."""

    SOFT = "soft"
    PPO = "ppo"


ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file, for instance a copy from examples/; none: defaults.")
]
Address = Annotated[
    str | None, typer.Option("--address", help="Existing Ray cluster (auto or host:port) instead of a local one.")
]
Version = Annotated[str, typer.Argument(help="Its name in the store, as netgpt models list shows it.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the program's log.")]


@app.command()
def demo(
    seed: Annotated[int, typer.Option("--seed", help="Decides the requests.", min=0)] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the system serving afterwards.")] = False,
    var: Annotated[
        Path, typer.Option("--var", help="Where everything is written; log and models are replaced.")
    ] = Path("var/demo"),
    verbose: Verbose = False,
) -> None:
    """Play the whole loop on this machine: serve, offload, learn, swap, serve better."""
    from rich.console import Console

    from orchestrator.demo.run import demo as run

    _log(verbose)
    run(var, seed, keep, Console())


@app.command()
def serve(config: ConfigFile = None, address: Address = None, verbose: Verbose = False) -> None:
    """Run the system until Ctrl-C and print where it listens."""
    from orchestrator.serving import serve as run

    _log(verbose)
    run(_config(config, address), _say)


@app.command()
def status(config: ConfigFile = None) -> None:
    """Say what the running system does."""
    from orchestrator.serving import status as lines

    _lines(lines(_config(config)))


@app.command()
def ask(
    text: Annotated[str, typer.Argument(help="The user's message.")],
    config: ConfigFile = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Endpoint of a site, up to /v1; none: the running one.")
    ] = None,
    tools: Annotated[Path | None, typer.Option("--tools", help="JSON file with a list of OpenAI tools.")] = None,
    route: Annotated[AskedRoute, typer.Option("--route", help="Who has to answer.")] = AskedRoute.AUTO,
    private: Annotated[
        bool, typer.Option("--private", help="The question stays at the edge, and no record of it is kept.")
    ] = False,
) -> None:
    """Ask the running site and show the answer and its route."""
    from orchestrator.asking import ask as lines

    _lines(lines(_config(config), text, url, tools, {"route": route.value, "private": private}))


@app.command()
def replay(
    log: Annotated[Path, typer.Argument(help="Directory of an offload log (by default var/log).")],
    policy: Annotated[
        list[str] | None, typer.Option("--policy", help="fixed:TAU, optimal, or a policy FILE.json; may be repeated.")
    ] = None,
    config: ConfigFile = None,
    out: Annotated[Path | None, typer.Option("--out", help="Directory for the frontier and the figures.")] = None,
    suggest: Annotated[
        str | None, typer.Option("--suggest", help="success=0.95, cost_usd_per_k=0.4 or offload=0.2.")
    ] = None,
) -> None:
    """Say what other policies would have done with the requests in a log."""
    from rich.console import Console

    from orchestrator.replay.command import replay as run
    from policies.policy_file import load_policy

    settings = _config(config)
    run(log, policy or [], settings.policy, out or settings.var / "replay", load_policy, Console(), suggest)


@train.command()
def policy(
    log: Annotated[Path, typer.Argument(help="Directory of an offload log (by default var/log).")],
    out: Annotated[Path, typer.Option("--out", help="The policy file to write.")] = Path("policy.json"),
    kind: Annotated[PolicyKind, typer.Option("--kind", help="What is fitted.")] = PolicyKind.POLICYNET,
    method: Annotated[
        Method, typer.Option("--method", help="soft: by gradient, a minute. ppo: RLlib, where a budget couples them.")
    ] = Method.SOFT,
    iterations: Annotated[int, typer.Option("--iterations", help="Of PPO, 4,000 steps each.", min=1)] = 60,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    config: ConfigFile = None,
) -> None:
    """Fit a threshold that follows the network to a log, and write it as a file for policy.file."""
    from rich.console import Console

    from orchestrator.train_policy import train_policy

    train_policy(
        log,
        _config(config),
        out,
        method=method.value,
        kind=kind.value,
        iterations=iterations,
        seed=seed,
        console=Console(),
    )


@train.command()
def scorer(
    kind: Annotated[ScorerKind, typer.Argument(help="What is fitted.")],
    config: ConfigFile = None,
) -> None:
    """Fit a scorer for the newest edge version to its log, and publish it with the weights (for policy.scorer)."""
    from rich.console import Console

    from orchestrator.train_scorer import train_scorer

    train_scorer(kind.value, _config(config), Console())


@train.command("round")
def train_round(
    log: Annotated[Path | None, typer.Argument(help="Directory of an offload log; none: the configuration's.")] = None,
    config: ConfigFile = None,
) -> None:
    """Train the edge model on a log and publish it if it passes the gate; nothing that runs changes."""
    from rich.console import Console

    from orchestrator.train_round import train_round as run

    run(log, _config(config), Console())


@models.command("list")
def list_models(config: ConfigFile = None) -> None:
    """Show every version in the store, and which one is live."""
    from orchestrator.models import listed

    _lines(listed(_store(config)))


@models.command()
def show(version: Version, config: ConfigFile = None) -> None:
    """Show how a version came to be and what became of it."""
    from orchestrator.models import shown

    _lines(shown(_store(config), version))


@models.command()
def diff(first: Version, second: Version, config: ConfigFile = None) -> None:
    """Show what changed between two versions."""
    from orchestrator.models import compared

    _lines(compared(_store(config), first, second))


@models.command()
def promote(version: Version, config: ConfigFile = None) -> None:
    """Make a version live at every site of the running system, or at the one whose own it is."""
    from orchestrator.control import send

    typer.echo(send(_config(config).control_file, "promote", version))


@models.command()
def rollback(
    site: Annotated[str, typer.Option("--site", help="Take back this site's own version.")] = "",
    config: ConfigFile = None,
) -> None:
    """End the canary of the running system; without one, go back to the parent of what is live."""
    from orchestrator.control import send

    typer.echo(send(_config(config).control_file, "rollback", site))


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Whom it is for.")],
    sites: Annotated[list[str] | None, typer.Option("--site", help="A site that takes it; none: all.")] = None,
    requests_per_minute: Annotated[float | None, typer.Option(help="More are refused until it has refilled.")] = None,
    tokens_per_minute: Annotated[float | None, typer.Option(help="Of prompts and answers.")] = None,
    usd_per_day: Annotated[float | None, typer.Option(help="Of the cloud; beyond it the edge answers.")] = None,
    batch: Annotated[bool, typer.Option("--batch", help="Its requests wait until no others do.")] = False,
    config: ConfigFile = None,
) -> None:
    """Make a key and show it, this once."""
    from orchestrator.endpoint.keys import create as make

    limits = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
    priority = "batch" if batch else "interactive"
    file = _config(config).keys_file
    key, _ = make(file, name, sites=tuple(sites or ()), usd_per_day=usd_per_day, priority=priority, **limits)
    typer.echo(key)
    typer.echo(f"It stands nowhere else: {file} holds its hash.", err=True)


@keys.command("list")
def list_keys(config: ConfigFile = None) -> None:
    """Show every key's id, name and limits."""
    from orchestrator.endpoint.keys import listed

    _lines(listed(_config(config).keys_file))


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As netgpt keys list shows it.")],
    config: ConfigFile = None,
) -> None:
    """End a key; running sites refuse it within a second."""
    from orchestrator.endpoint.keys import revoke as end

    typer.echo(f"{end(_config(config).keys_file, key_id).name} has no access any more")


def main() -> None:
    """Entry point of the ``netgpt`` command."""
    try:
        app()
    except NetGPTError as why:
        typer.echo(f"netgpt: {why}", err=True)
        sys.exit(FAILED)
    except ModuleNotFoundError as why:
        if (why.name or "").split(".")[0] in OURS:
            raise
        typer.echo(f"netgpt: the package {why.name} is not installed. {FULL_INSTALL}", err=True)
        sys.exit(FAILED)


def _config(path: Path | None, address: str | None = None) -> Config:
    from orchestrator.config import Config, load_config

    config = load_config(path) if path else Config()
    if address is None:
        return config
    return config.model_copy(update={"ray": config.ray.model_copy(update={"address": address})})


def _store(config: Path | None) -> ModelStore:
    from actors.model_store import ModelStore

    return ModelStore(_config(config).store_dir)


def _lines(lines: Iterator[str]) -> None:
    for line in lines:
        typer.echo(line)


def _log(verbose: bool) -> None:
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("httpx", "httpx2"):  # a line a request
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _say(line: str) -> None:
    typer.echo(line)


if __name__ == "__main__":
    main()
