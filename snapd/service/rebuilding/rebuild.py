"""A rebuild from its beginning to its end. The caller has the state folder's lock."""

import dataclasses
import datetime
import pathlib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from snapd import errors, model
from snapd.archive import repository as repositories
from snapd.archive import sealing
from snapd.catalog import copying
from snapd.pool import layers as pools
from snapd.service import catalogarea, stores
from snapd.service.rebuilding import base as bases
from snapd.service.rebuilding import copies, joining, survey, writing
from snapd.service.rebuilding import evidence as evidences
from snapd.service.rebuilding import report as reports
from snapd.service.settings import Settings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to rebuild."""

    replace: bool = False
    """Set a catalog that is there aside."""
    backup: pathlib.Path | None = None
    """A copy of the catalog to begin with, instead of the archive's newest."""
    with_archive: bool = True
    dry_run: bool = False
    """Only tell."""
    pool_lost: bool = False
    """Go on if there is no pool."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What was done."""

    report: reports.Report
    began_with: str
    """Which backup, in words."""
    passed_over: tuple[reports.Entry, ...]
    """Backups that can't be used, the newest first."""
    set_aside: str
    """The name under which the catalog lies that was there, or ''."""


def rebuild(settings: Settings, options: Options, now: datetime.datetime) -> Outcome:
    """Make the catalog anew from what is left, and return what there is to tell.

    After an error all is as it was. Raises errors.CatalogPresent, errors.PoolMissing, errors.CatalogOfAnotherHost,
    errors.SchemaTooNew, errors.ArchiveUnreachable, errors.ArchiveRefused, errors.ArchiveKeyMissing, errors.Corrupt,
    errors.StorageFull, errors.StorageFailed.
    """
    path = settings.catalog_path
    if not (options.replace or options.dry_run) and path.exists() and path.stat().st_size:
        raise errors.CatalogPresent(path=str(path))
    if not options.pool_lost and not pools.is_there(settings.pool_path):
        raise errors.PoolMissing(path=str(settings.pool_path))
    work, finished = (path.with_name(f".{path.name}.{part}") for part in ("rebuilding", "rebuilt"))
    with ExitStack() as stack:
        for temporary in (work, finished):
            copying.discard(temporary)
            stack.callback(copying.discard, temporary)
        repository = stack.enter_context(_opened(settings)) if options.with_archive else None
        base, began_with, passed_over = _begin(work, repository, options)
        if base.host not in ("", settings.host):
            raise errors.CatalogOfAnotherHost(path=began_with, found=base.host, host=settings.host)
        evidence = evidences.Evidence(
            base, _pool(settings), _archive(repository, base), now, settings.default_retention
        )
        rows, told = joining.join(evidence)
        writing.write(work, settings.host, evidence, rows)
        writing.finish(work, finished)
        aside = "" if options.dry_run else writing.publish(finished, path, now)
    return Outcome(told, began_with, passed_over, aside)


@contextmanager
def _opened(settings: Settings) -> Iterator[repositories.Repository]:
    """Open the archive to be read without a claim: another host may own this one's part by now."""
    with tempfile.TemporaryDirectory(prefix="snapd-storage-") as scratch:
        repository = repositories.Repository(
            stores.store(settings),
            pathlib.Path(scratch, "index.sqlite3"),
            settings.host,
            keyring=None if settings.key_file is None else sealing.read_keys(settings.key_file),
        )
        try:
            yield repository
        finally:
            repository.close()


def _begin(
    work: pathlib.Path, repository: repositories.Repository | None, options: Options
) -> tuple[bases.Base, str, tuple[reports.Entry, ...]]:
    """Put the base into a file; return what it says, which it is, and which ones were passed over."""
    if options.backup is not None:
        return writing.start(work, options.backup), str(options.backup), ()
    passed_over: list[reports.Entry] = []
    for name in () if repository is None else catalogarea.names(repository):
        assert repository is not None
        try:
            backup = catalogarea.restore(repository, name, work)
            return writing.start(work, None), f"{name} of {backup.created:%Y-%m-%d %H:%M:%S}Z", tuple(passed_over)
        except (errors.Corrupt, errors.NotFound) as error:
            copying.discard(work)
            passed_over.append(reports.Entry(name, str(error)))
    return writing.start(work, None), "no backup", tuple(passed_over)


def _pool(settings: Settings) -> survey.Pool:
    if not pools.is_there(settings.pool_path):
        return survey.NOTHING
    return survey.survey(pools.Pool(settings.pool_path, settings.low_watermark_bytes))


def _archive(repository: repositories.Repository | None, base: bases.Base) -> copies.Archive | None:
    if repository is None:
        return None
    known = {uid for uid, row in base.snapshots.items() if row.archive.state is model.ArchiveState.ARCHIVED}
    return copies.survey(repository, known)
