"""A catalog, or a pool, that is lost or isn't where it should be."""

import dataclasses

from snapd.errors.tree import DataLoss, StartupError


@dataclasses.dataclass(eq=False, kw_only=True)
class CatalogRebuilt(DataLoss):
    """What became of something was lost with the catalog, which was rebuilt from what is left."""

    reason = "CATALOG_REBUILT"
    summary = "{name}: the catalog was rebuilt, and {problem}"
    advice = "Look at what is there now. Delete what isn't wanted or is lost, and ask again for what was under way."
    name: str
    problem: str


@dataclasses.dataclass(eq=False, kw_only=True)
class CatalogMissing(StartupError):
    """There are layers in the pool, and no catalog that says whose they are."""

    reason = "CATALOG_MISSING"
    summary = "there is no catalog at {path}, and {pool} holds layers"
    advice = (
        "Rebuild it with `snapd-storage rebuild-catalog`, or move the pool away if its volumes are to be forgotten."
    )
    path: str
    pool: str


@dataclasses.dataclass(eq=False, kw_only=True)
class CatalogPresent(StartupError):
    """A catalog that would be rebuilt is there."""

    reason = "CATALOG_PRESENT"
    summary = "there is a catalog at {path}"
    advice = "Look at it with `snapd-storage fsck`. With --replace it is set aside under another name."
    path: str


@dataclasses.dataclass(eq=False, kw_only=True)
class CatalogOfAnotherHost(StartupError):
    """A backup of a catalog that belongs to another host of the archive."""

    reason = "CATALOG_OF_ANOTHER_HOST"
    summary = "{path} is the catalog of host {found}, not of {host}"
    advice = (
        "Use a backup of this host's catalog, or configure archive.host as that host's if this one takes its place."
    )
    path: str
    found: str
    host: str


@dataclasses.dataclass(eq=False, kw_only=True)
class PoolMissing(StartupError):
    """The catalog has layers, and the folder of their files isn't there."""

    reason = "POOL_MISSING"
    summary = "there is no pool at {path}"
    advice = "Mount it and start again. If it is gone for good: `snapd-storage rebuild-catalog --pool-lost`."
    path: str
