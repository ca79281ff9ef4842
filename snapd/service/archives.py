"""What lies in the archive, whoever put it there: hosts and their snapshots, as manifests describe them."""

import base64
import binascii
import dataclasses
import datetime

from snapd import errors, model
from snapd.archive import manifest as manifests
from snapd.service import core as cores


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """A host that has a part of the archive."""

    name: str
    own: bool
    last_seen: datetime.datetime | None


@dataclasses.dataclass(frozen=True, slots=True)
class Archived:
    """A snapshot as the archive has it."""

    place: model.ArchivePlace
    environment_id: str = ""
    snapshot_id: str = ""
    display_name: str = ""
    volume_id: str = ""
    captured: datetime.datetime | None = None
    size_bytes: int = 0
    stored_bytes: int = 0
    problem: str = ""
    """Why its description can't be read, or ''."""


class Archives:
    """The archive as a place that hosts share."""

    def __init__(self, core: cores.Core) -> None:
        self._core = core

    def hosts(self, page_size: int, page_token: str) -> tuple[list[Host], str]:
        """Return one page of the hosts, ordered by name, and the token of the next.

        Raises errors.InvalidPageToken, errors.ArchiveUnreachable, errors.ArchiveRefused.
        """
        repository = self._core.repository
        own = self._core.settings.host
        (after,) = _decode_token(page_token, 1) if page_token else ("",)
        names = [name for name in repository.hosts() if name > after]
        found = [Host(name, name == own, repository.last_seen(name)) for name in names[:page_size]]
        return found, _encode_token(found[-1].name) if len(names) > page_size else ""

    def snapshots(self, host: str, page_size: int, page_token: str) -> tuple[list[Archived], str]:
        """Return one page of a host's snapshots, and the token of the next.

        Raises errors.NotFound, errors.InvalidPageToken, errors.ArchiveKeyMissing, errors.ArchiveUnreachable.
        """
        repository = self._core.repository
        if host not in repository.hosts():
            raise errors.NotFound(resource_type="archive host", name=f"hosts/{host}")
        found_host, *after = _decode_token(page_token, 3) if page_token else (host, "", "")
        if found_host != host:
            raise errors.InvalidPageToken(problem="it belongs to another host")
        found: list[Archived] = []
        for environment_uid in repository.environments(host):
            if environment_uid < after[0] or environment_uid == cores.CATALOG_AREA:
                continue
            for snapshot_uid in repository.snapshots(environment_uid, host):
                if [environment_uid, snapshot_uid] <= after:
                    continue
                if len(found) == page_size:
                    last = found[-1].place
                    return found, _encode_token(host, last.environment_uid, last.snapshot_uid)
                found.append(self._describe(model.ArchivePlace(host, environment_uid, snapshot_uid)))
        return found, ""

    def _describe(self, place: model.ArchivePlace) -> Archived:
        try:
            found = self._core.repository.manifest(place.environment_uid, place.snapshot_uid, place.host)
        except (errors.Corrupt, errors.NotFound, errors.SchemaTooNew) as error:
            return Archived(place, problem=str(error))
        return _described(place, found)


def _described(place: model.ArchivePlace, found: manifests.Manifest) -> Archived:
    said = {name: value for name, value in found.metadata.items() if isinstance(value, str)}
    try:
        captured = datetime.datetime.fromisoformat(said.get("captured", ""))
    except ValueError:
        captured = None
    return Archived(
        place,
        environment_id=said.get("environment_id", ""),
        snapshot_id=said.get("snapshot_id", ""),
        display_name=said.get("display_name", ""),
        volume_id=said.get("volume_id", ""),
        captured=captured,
        size_bytes=found.size_bytes,
        stored_bytes=found.statistics.bytes_stored,
    )


def _encode_token(*parts: str) -> str:
    return base64.urlsafe_b64encode("/".join(parts).encode()).decode("ascii")


def _decode_token(token: str, count: int) -> list[str]:
    try:
        parts = base64.urlsafe_b64decode(token).decode().split("/")
    except (ValueError, binascii.Error) as error:
        raise errors.InvalidPageToken(problem="it was not handed out by this server") from error
    if len(parts) != count:
        raise errors.InvalidPageToken(problem="it was handed out for another list")
    return parts
