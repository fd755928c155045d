"""One YAML file's worth of settings, composed from every layer's own options.

``load_config`` reads and checks a file; ``Config()`` is the embedded default. The settings of engines, log, store
and learner are declared in ``actors.options``, those of Ray, cloud, link and telemetry in ``cluster.options``, those of
the decision in ``policy_options``, those of a site in ``site_options``. Every mistake becomes one ``BadConfig`` that
names the file, the line, the key, the value and the fix. ``resolve_model`` turns ``bundled:edge`` into the packaged
directory.
"""

from __future__ import annotations

from dataclasses import asdict
from os.path import isfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError, model_validator

from actors.options import LearnerOptions, LogOptions, Options, StoreOptions
from cluster import traces
from cluster.options import CloudOptions, LinkOptions, RayOptions, TelemetryOptions
from orchestrator.policy_options import PolicyOptions
from orchestrator.site_options import SiteOptions
from orchestrator.yaml_file import Document, explain, read
from policies.checks import MOST
from policies.errors import BadConfig
from policies.tariff import Tariff, build_tariff
from policies.types import Prices

BUNDLED = Path(__file__).parent / "bundled" / "models"
# Ray appends a session directory of about 60 characters, and a Unix socket's path ends at 107.
SOCKET_DIR_CHARS = 40
LEAST_VALUE_USD = 1e-9  # what is divided by it stays within the range of a float


class Config(Options):
    """Everything a running system is made of. Relative paths of log and store lie under ``var``."""

    var: Path = Path("var")
    """Directory for everything written at run time."""

    site: SiteOptions = SiteOptions()
    """The edge site."""

    cloud: CloudOptions = CloudOptions()
    """The large model."""

    link: LinkOptions = LinkOptions()
    """The way between the two."""

    telemetry: TelemetryOptions = TelemetryOptions()
    """How the link is measured and reported."""

    policy: PolicyOptions = PolicyOptions()
    """When a draft is good enough."""

    prices: Prices = Prices()
    """What the cloud charges, in US dollars: request_usd, {input,cached,output}_usd_per_mtok, transfer_usd_per_gb."""

    tariff: dict[str, Any] | None = None
    """Prices by the hour, instead of ``prices``: zone (as Europe/Berlin) and periods, a list of {start, end, days,
    prices} by that zone's clock, which cover each hour of the week once."""

    log: LogOptions = LogOptions()
    """The offload log."""

    store: StoreOptions = StoreOptions()
    """The model store."""

    learner: LearnerOptions = LearnerOptions()
    """Training rounds and their gate."""

    ray: RayOptions = RayOptions()
    """The Ray session."""

    @property
    def log_dir(self) -> Path:
        """Absolute directory of the offload log."""
        return (self.var / self.log.dir).absolute()

    @property
    def store_dir(self) -> Path:
        """Absolute directory of the model store."""
        return (self.var / self.store.dir).absolute()

    @property
    def work_dir(self) -> Path:
        """Absolute scratch directory of a training round."""
        return (self.var / "training").absolute()

    @property
    def workers_dir(self) -> Path:
        """Absolute directory through which training workers take their orders."""
        return (self.var / "workers").absolute()

    @property
    def run_file(self) -> Path:
        """Where a running system says where it is (``netgpt status`` reads it)."""
        return (self.var / "run.json").absolute()

    @property
    def keys_file(self) -> Path:
        """The API keys' hashes and limits (``netgpt keys`` writes it)."""
        return (self.var / "keys.json").absolute()

    @property
    def control_file(self) -> Path:
        """Where a running system says how to give it orders (``netgpt models promote`` reads it)."""
        return (self.var / "control.json").absolute()

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        problem = next((why for rule in RULES if (why := rule(self))), None)
        if problem:
            raise ValueError(problem)
        return self

    @property
    def price_list(self) -> Tariff:
        """What the cloud charges at which hour."""
        return build_tariff(self.tariff) if self.tariff else Tariff.constant(self.prices)


def load_config(path: Path) -> Config:
    """Read ``path``.

    Raises:
        BadConfig: the file is missing, is not YAML, has an unknown key or a value that cannot be used.
    """
    return parse_config(read(path, Config))


def parse_config(document: Document) -> Config:
    """Check a document that was read from a file or built in memory."""
    try:
        return Config.model_validate(document.data)
    except ValidationError as why:
        raise BadConfig(explain(why, document, Config)) from None


def resolve_model(model: str) -> str:
    """The directory of ``bundled:NAME``, or ``model`` itself (a directory or a Hugging Face id).

    Raises:
        BadConfig: the bundled model or the directory does not exist or holds no config.json.
    """
    if model.startswith("bundled:"):
        return str(_checked(BUNDLED / model.removeprefix("bundled:"), model))
    if model.startswith((".", "/", "~")) or Path(model).is_dir():
        return str(_checked(Path(model).expanduser().absolute(), model))
    return model


def _checked(directory: Path, model: str) -> Path:
    if (directory / "config.json").is_file():
        return directory
    found = sorted(p.parent.name for p in BUNDLED.glob("*/config.json"))
    missing = "does not exist" if not directory.is_dir() else "holds no config.json"
    raise BadConfig(
        f"model {model!r}: {directory} {missing}. Fix: give a Hugging Face model directory, a Hugging Face id, "
        f"or one of the bundled models ({', '.join('bundled:' + name for name in found) or 'none is packaged here'})"
    )


def _cloud_endpoint(config: Config) -> str | None:
    if config.cloud.kind == "openai" and not config.cloud.base_url:
        return "cloud.base_url: missing, but cloud.kind is openai. Fix: set it to the endpoint's URL up to /v1"
    return _url_problem("cloud.base_url", config.cloud.base_url)


def _more_endpoints(config: Config) -> str | None:
    found = enumerate(config.cloud.more)
    return next((why for n, one in found if (why := _url_problem(f"cloud.more[{n}].base_url", one.base_url))), None)


def _tls_files(config: Config) -> str | None:
    telemetry, site = config.telemetry, config.site
    for where, files in (
        ("telemetry", {"tls_ca": telemetry.tls_ca, "tls_cert": telemetry.tls_cert, "tls_key": telemetry.tls_key}),
        ("site", {"tls_cert": site.tls_cert, "tls_key": site.tls_key}),
    ):
        missing = [name for name, file in files.items() if file is None]
        if missing and len(missing) < len(files):
            return f"{where}.{missing[0]}: missing beside the others. Fix: give {' and '.join(files)}, or none of them"
    return None


def _edge_endpoint(config: Config) -> str | None:
    engine = config.site.engine
    if engine.kind in ("openai", "vllm-server") and not engine.base_url:
        missing = f"site.engine.base_url: missing, but site.engine.kind is {engine.kind}"
        return f"{missing}. Fix: set it to the endpoint's URL"
    return _url_problem("site.engine.base_url", config.site.engine.base_url)


def _url_problem(key: str, url: str | None) -> str | None:
    parts = urlsplit(url or "http://unset")
    if parts.scheme in ("http", "https") and parts.hostname:
        return None
    return f"{key}: {url!r} is not a URL. Fix: write it like https://api.example.com/v1"


def _tls_link(config: Config) -> str | None:
    if config.link.kind == "emulated" and (config.cloud.base_url or "").startswith("https:"):
        return (
            "link.kind: emulated cannot carry https, because the certificate names another host. "
            "Fix: set link.kind to direct, or give cloud.base_url as http"
        )
    return None


def _replicas(config: Config) -> str | None:
    most = config.cloud.max_replicas
    if most is not None and most < config.cloud.replicas:
        return f"cloud.max_replicas: {most} is below cloud.replicas ({config.cloud.replicas}). Fix: raise it"
    return None


def _distinct_ports(config: Config) -> str | None:
    ports = {
        "site.port": config.site.port,
        "cloud.port": config.cloud.port,
        "telemetry.port": config.telemetry.port,
        "ray.dashboard_port": config.ray.dashboard_port,
    }
    taken: dict[int, str] = {}
    for key, port in ports.items():
        if port and port in taken:
            return f"{key}: {port} is also {taken[port]}. Fix: give each its own port, or 0 to pick a free one"
        taken[port] = key
    return None


def _amounts(config: Config) -> str | None:
    groups = {
        "prices": asdict(config.prices),
        "policy.objective": asdict(config.policy.objective),
        "policy.speed": asdict(config.policy.speed),
        "telemetry": {"snapshot_ttl_s": config.telemetry.snapshot_ttl_s},
    }
    for key, group in groups.items():
        for name, amount in group.items():
            if not 0 <= amount <= MOST:
                return f"{key}.{name}: {amount} is not allowed. Fix: give a number of at least 0 and at most {MOST:g}"
    if (value_usd := config.policy.objective.value_usd) < LEAST_VALUE_USD:
        return (
            f"policy.objective.value_usd: {value_usd} is not allowed. "
            f"Fix: give the worth of a correct answer in dollars, at least {LEAST_VALUE_USD:g}"
        )
    if config.policy.objective.cloud_accuracy > 1:
        return "policy.objective.cloud_accuracy: a probability is at most 1. Fix: give 0.97 for 97 %"
    return None


def _tariff(config: Config) -> str | None:
    if config.tariff is None:
        empty = "tariff" in config.model_fields_set
        return "tariff: it is empty. Fix: give zone and periods, or remove the key" if empty else None
    if config.prices != Prices():
        return "tariff: prices are given too. Fix: put them into the tariff's periods, or remove it"
    try:
        build_tariff(config.tariff)
    except ValueError as why:
        return f"{why}. Fix: cover each hour of the week with one period"
    return None


def _policy_file(config: Config) -> str | None:
    fitted = config.policy.kind in ("funcdyn", "policynet")
    if fitted and config.policy.file is None:
        return (
            f"policy.file: missing, but policy.kind is {config.policy.kind}. Fix: name what netgpt train policy wrote"
        )
    if config.policy.file is not None and config.policy.kind == "fixed":
        return "policy.file: of no use to kind fixed. Fix: set policy.kind to optimal, funcdyn or policynet"
    if config.policy.file is not None and not isfile(config.policy.file):
        return (
            f"policy.file: {config.policy.file} does not exist or is no file. Fix: name what netgpt train policy wrote"
        )
    return None


def _traces(config: Config) -> str | None:
    link = config.link.initial
    for side, rate in (("up", link.up), ("down", link.down)):
        try:
            if isinstance(rate, str) and config.link.kind == "emulated":
                traces.resolve(rate)
        except BadConfig as why:
            return f"link.initial.{side}: {why}. Fix: give bits per second, a bundled trace or a Mahimahi file"
    return None


def _ray_temp(config: Config) -> str | None:
    temp = config.ray.temp_dir
    if temp and len(str(temp.absolute())) > SOCKET_DIR_CHARS:
        return f"ray.temp_dir: {str(temp)!r} is too long for Unix sockets. Fix: at most {SOCKET_DIR_CHARS} characters"
    return None


def _pauses(config: Config) -> str | None:
    learner = config.learner
    if learner.pause_minutes > learner.longest_pause_hours * 60.0:
        longest = f"learner.longest_pause_hours ({learner.longest_pause_hours:g})"
        return f"learner.pause_minutes: {learner.pause_minutes:g} is more than {longest}. Fix: raise the latter"
    return None


def _workers(config: Config) -> str | None:
    learner = config.learner
    if learner.workers > learner.batch_size:
        rows = f"learner.batch_size ({learner.batch_size})"
        return f"learner.workers: {learner.workers} is more than {rows}, so some would have no rows. Fix: lower it"
    return None


def _adapters(config: Config) -> str | None:
    learner = config.learner
    if learner.method == "lora" and learner.policy_steps:
        return "learner.policy_steps: they train all weights. Fix: set them to 0, or learner.method to full"
    if config.site.engine.kind == "vllm-server" and learner.method != "lora":
        return "learner.method: the sites of a vllm-server share its weights. Fix: set it to lora"
    return None


RULES = (
    _pauses,
    _adapters,
    _workers,
    _cloud_endpoint,
    _more_endpoints,
    _tls_files,
    _edge_endpoint,
    _tls_link,
    _replicas,
    _distinct_ports,
    _amounts,
    _tariff,
    _policy_file,
    _traces,
    _ray_temp,
)


def default_config(**sections: Any) -> Config:
    """The embedded default with some sections replaced (nested dictionaries, as in the file)."""
    return parse_config(Document(None, sections, {}))
