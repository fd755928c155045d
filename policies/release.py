"""Which version of the edge model runs where, as one small record, and the moves that change it.

``live`` is for every site; a ``Canary`` is a newer version on one site first, a ``Personal`` one stays at its site.
``previous`` is what ran before ``live`` and what it is compared with. Each move takes the time and its reason and
returns the next record; ``moves`` remembers the last of them. Pure: ``actors.model_store`` keeps the record beside the
versions, ``orchestrator.releases`` acts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

KEPT_MOVES = 32  # what an operator reads; each round makes two or three
KEPT_REFUSED = 32  # more than a store keeps versions

What = Literal["started", "canary", "promoted", "personal", "rolled back"]


@dataclass(frozen=True, slots=True)
class Move:
    """Something that was done to ``version`` at ``time_us`` (Unix), and why; ``site`` if at that one alone."""

    time_us: int
    what: What
    version: str
    why: str
    site: str = ""


@dataclass(frozen=True, slots=True)
class Canary:
    """``version`` runs at ``site`` alone since ``since_us`` (Unix)."""

    version: str
    site: str
    since_us: int


@dataclass(frozen=True, slots=True)
class Personal:
    """``version`` is a site's own since ``since_us`` (Unix).

    ``before`` ran there until then and is what it is compared with; None where there is nothing to compare with.
    ``own`` says that ``before`` was the site's own as well.
    """

    version: str
    since_us: int
    before: str | None = None
    own: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """What runs.

    Args:
        live: the version of every site that has no other.
        since_us: Unix time from which it was.
        begun_us: Unix time from which it ran at its first site: before ``since_us`` if it was a canary.
        previous: what was live before and still vouches for it; None where there is nothing to compare with.
        canary: the version that is being tried on one site.
        refused: versions that were rolled back, the newest last.
        moves: the last moves, the newest last.
        personal: the sites that have a version of their own, and which.
    """

    live: str
    since_us: int
    begun_us: int
    previous: str | None = None
    canary: Canary | None = None
    refused: tuple[str, ...] = ()
    moves: tuple[Move, ...] = ()
    personal: Mapping[str, Personal] = field(default_factory=dict)

    @property
    def needed(self) -> frozenset[str]:
        """Versions that must not be deleted."""
        own = (name for one in self.personal.values() for name in (one.version, one.before))
        known = (self.live, self.previous, self.canary.version if self.canary else None, *own)
        return frozenset(version for version in known if version)

    @property
    def apart(self) -> Mapping[str, str]:
        """What runs at the sites that do not run ``live``; a canary goes before a site's own version."""
        own = {site: one.version for site, one in self.personal.items()}
        return own | ({self.canary.site: self.canary.version} if self.canary else {})

    def of(self, site: str | None) -> str:
        """What ``site`` runs but for a canary; what is live for no site in particular."""
        own = self.personal.get(site) if site else None
        return own.version if own else self.live

    def role(self, version: str) -> str:
        """``live``, ``canary``, ``live at`` with the sites whose own it is, ``refused`` or nothing."""
        if version == self.live:
            return "live"
        if self.canary and version == self.canary.version:
            return "canary"
        if sites := [site for site, one in self.personal.items() if one.version == version]:
            return f"live at {', '.join(sites)}"
        return "refused" if version in self.refused else ""

    def give(self, site: str, version: str, why: str, now_us: int) -> Release:
        """``version`` becomes the own one of ``site``."""
        refused = tuple(other for other in self.refused if other != version)
        own = Personal(version, now_us, self.of(site), site in self.personal)
        moved = self._moved("personal", version, why, now_us, site)
        return replace(moved, personal={**self.personal, site: own}, refused=refused)

    def take_back(self, site: str, why: str, now_us: int) -> Release:
        """``site`` goes back to its own version before, with nothing to compare it with, or else to what is live."""
        own, others = self.personal[site], {name: one for name, one in self.personal.items() if name != site}
        back = {site: Personal(own.before, now_us)} if own.own and own.before else {}
        return replace(self._refuse(own.version, why, now_us, site), personal={**others, **back})

    def try_on(self, version: str, site: str, why: str, now_us: int) -> Release:
        """``version`` goes to ``site`` alone."""
        return replace(self._moved("canary", version, why, now_us), canary=Canary(version, site, now_us))

    def promote(self, version: str, why: str, now_us: int) -> Release:
        """``version`` goes to every site; a canary ends thereby."""
        refused = tuple(other for other in self.refused if other != version)
        previous = self.live if version != self.live else self.previous
        moved = self._moved("promoted", version, why, now_us)
        tried = self.canary if self.canary and self.canary.version == version else None
        return replace(
            moved,
            live=version,
            since_us=now_us,
            begun_us=tried.since_us if tried else now_us,
            previous=previous,
            canary=None,
            refused=refused,
        )

    def end_canary(self, why: str, now_us: int) -> Release:
        """The canary's site goes back to what is live."""
        assert self.canary is not None, "there is no canary"
        return replace(self._refuse(self.canary.version, why, now_us), canary=None)

    def roll_back(self, target: str, why: str, now_us: int) -> Release:
        """Every site goes back from what is live to ``target``, which has nothing to be compared with."""
        refused = self._refuse(self.live, why, now_us)
        return replace(refused, live=target, since_us=now_us, begun_us=now_us, previous=None, canary=None)

    def _refuse(self, version: str, why: str, now_us: int, site: str = "") -> Release:
        others = tuple(other for other in self.refused if other != version)
        moved = self._moved("rolled back", version, why, now_us, site)
        return replace(moved, refused=(*others, version)[-KEPT_REFUSED:])

    def _moved(self, what: What, version: str, why: str, now_us: int, site: str = "") -> Release:
        return replace(self, moves=(*self.moves, Move(now_us, what, version, why, site))[-KEPT_MOVES:])


def started(before: Release | None, version: str, now_us: int) -> Release:
    """A system starts with ``version``: the same record if that was live, else a new one."""
    if before is not None and before.live == version:
        return before
    kept = (before.refused, before.moves, before.personal) if before else ()
    return Release(version, now_us, now_us, None, None, *kept)._moved(
        "started", version, "the system started with it", now_us
    )


def from_dict(data: Mapping[str, Any]) -> Release:
    """What ``dataclasses.asdict`` made of a record, after JSON.

    Raises:
        ValueError: it is no such thing.
    """
    try:
        canary, moves = data["canary"], tuple(Move(**move) for move in data["moves"])
        found = Release(**{**data, "canary": Canary(**canary) if canary else None, "moves": moves})
        personal = {site: Personal(**one) for site, one in data.get("personal", {}).items()}
        found = replace(found, refused=tuple(found.refused), personal=personal)
    except (KeyError, TypeError, AttributeError) as why:
        raise ValueError(f"not a record of what is live: {why!r}") from None
    if not isinstance(found.live, str) or not isinstance(found.since_us, int):
        raise ValueError(f"not a record of what is live: {data!r}")
    return found
