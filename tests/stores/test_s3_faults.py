"""A bucket that answers 500, 503 or nothing, cuts answers, loses them, or refuses: typed errors or retries, no lies."""

import collections
import os
import pathlib
import resource
from collections.abc import Callable, Iterator

import pytest

from snapd import errors, units
from snapd.archive import repository
from snapd.archive.backends import s3, s3settings
from tests.stores import servers
from tests.unit.archive.archives import content

BLOCK = 64 * units.KIB


def first(count: int, fault: str, method: str = "") -> servers.Fault:
    """Return a fault of the first requests of a method, or of all."""
    left = collections.Counter({fault: count})

    def decide(request: servers.Request) -> str:
        if (not method or request.method == method) and left[fault] > 0:
            left[fault] -= 1
            return fault
        return ""

    return decide


def always(fault: str, method: str = "") -> servers.Fault:
    return lambda request: fault if not method or request.method == method else ""


@pytest.fixture
def store(proxy: servers.Proxy, spool: pathlib.Path, request: pytest.FixtureRequest) -> s3.S3Backend:
    """A store behind the proxy that has been used before, so that it has tried its server out."""
    prefix = f"faults/{request.node.name.replace('[', '-').rstrip(']')}"
    made = s3.S3Backend(servers.settings(proxy.url, spool, prefix, timeout_s=1.0, retry_s=5.0))
    made.put("warm", [b"up"])
    return made


CALLS: dict[str, Callable[[s3.S3Backend], object]] = {
    "get": lambda store: store.get("key"),
    "range": lambda store: store.get_range("key", 1, 2),
    "size": lambda store: store.size("key"),
    "list": lambda store: list(store.list("")),
    "folders": lambda store: list(store.folders("a/")),
    "modified": lambda store: store.modified("key"),
    "now": lambda store: store.now(),
    "put": lambda store: store.put("new", [b"x"]),
    "delete": lambda store: store.delete("key"),
}


@pytest.mark.parametrize("fault", ["500", "503", "429", "swallow", "cut"])
@pytest.mark.parametrize("call", CALLS)
def test_a_trouble_that_passes_is_not_seen(proxy: servers.Proxy, store: s3.S3Backend, call: str, fault: str) -> None:
    store.put("key", [b"abcd"])
    store.put("a/b/c", [b""])
    proxy.fault = first(2, fault)
    CALLS[call](store)
    proxy.fault = always("")
    assert store.get("a/b/c") == b""


@pytest.mark.parametrize("fault", ["500", "503", "hang", "swallow", "cut"])
@pytest.mark.parametrize("call", CALLS)
def test_a_trouble_that_stays_is_told(proxy: servers.Proxy, spool: pathlib.Path, call: str, fault: str) -> None:
    store = s3.S3Backend(servers.settings(proxy.url, spool, f"stays/{call}-{fault}", timeout_s=0.5, retry_s=0.5))
    store.put("key", [b"abcd"])
    proxy.fault = always(fault)
    with pytest.raises(errors.ArchiveUnreachable):
        CALLS[call](store)


@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_is_not_there_is_told(spool: pathlib.Path, call: str) -> None:
    gone = f"http://127.0.0.1:{servers.free_port()}"
    with pytest.raises(errors.ArchiveUnreachable):
        CALLS[call](s3.S3Backend(servers.settings(gone, spool, timeout_s=0.3, retry_s=0.3)))


@pytest.mark.parametrize("big", [False, True])
def test_a_create_whose_answer_was_lost_is_a_success_and_made_once(
    proxy: servers.Proxy, store: s3.S3Backend, big: bool
) -> None:
    data = os.urandom(5 * units.MIB if big else 10)
    proxy.fault = first(1, "swallow", "PUT")
    upload = store.upload("key")
    upload.append([data])
    upload.finish()
    assert [request.method for request in proxy.seen].count("PUT") >= 4
    assert store.get("key") == data
    with pytest.raises(errors.AlreadyExists):
        store.put("key", [data])
    assert store.get("key") == data


def test_a_create_that_is_repeated_finds_that_somebody_else_was_faster(
    proxy: servers.Proxy, store: s3.S3Backend
) -> None:
    def fault(request: servers.Request) -> str:
        if request.method == "PUT" and request.path.endswith("/key"):
            proxy.fault = always("")
            store.put("key", [b"theirs"])
            return "503"
        return ""

    proxy.fault = fault
    with pytest.raises(errors.AlreadyExists):
        store.put("key", [b"ours"])
    assert store.get("key") == b"theirs"


@pytest.mark.parametrize("call", CALLS)
def test_wrong_credentials_are_refused_and_not_shown(versitygw: str, spool: pathlib.Path, call: str) -> None:
    wrong = s3settings.Credentials("test-access", "not-the-secret")
    settings = servers.settings(versitygw, spool)
    store = s3.S3Backend(
        s3settings.S3Settings(**{name: getattr(settings, name) for name in settings.__slots__} | {"credentials": wrong})
    )
    with pytest.raises(errors.ArchiveRefused) as refused:
        CALLS[call](store)
    assert "not-the-secret" not in f"{refused.value} {refused.value.metadata()} {settings!r} {wrong!r}"


def test_a_bucket_that_is_missing_is_refused(versitygw: str, spool: pathlib.Path) -> None:
    with pytest.raises(errors.ArchiveRefused, match="NoSuchBucket"):
        list(s3.S3Backend(servers.settings(versitygw, spool, bucket="elsewhere")).list(""))


@pytest.fixture
def bucket(tmp_path: pathlib.Path) -> Iterator[tuple[pathlib.Path, servers.Proxy]]:
    """A bucket's folder, which may be renamed, and a proxy before its server."""
    with servers.versitygw(tmp_path) as url:
        servers.make_bucket(url)
        proxy = servers.Proxy(url)
        yield tmp_path / "versitygw" / servers.BUCKET, proxy
        proxy.close()


@pytest.mark.parametrize("call", ["size", "modified", "delete"])
def test_nothing_is_believed_to_be_absent_from_a_bucket_that_is_away(
    bucket: tuple[pathlib.Path, servers.Proxy], spool: pathlib.Path, call: str
) -> None:
    """As when the server's own disk isn't mounted."""
    place, proxy = bucket
    store = s3.S3Backend(servers.settings(proxy.url, spool))
    store.put("key", [b"abcd"])
    place.rename(place.with_name("away"))
    with pytest.raises(errors.ArchiveRefused, match="NoSuchBucket"):
        CALLS[call](store)
    place.with_name("away").rename(place)
    assert store.get("key") == b"abcd"


@pytest.mark.parametrize("data", [b"abcd", b""], ids=["some bytes", "no bytes"])
def test_a_bucket_that_is_away_for_one_request_is_not_seen(
    bucket: tuple[pathlib.Path, servers.Proxy], spool: pathlib.Path, data: bytes
) -> None:
    place, proxy = bucket
    store = s3.S3Backend(servers.settings(proxy.url, spool))
    store.put("key", [data])
    hidden: list[str] = []

    def come_and_go(request: servers.Request) -> str:
        if request.method == "HEAD" and not hidden:
            hidden.append(request.path)
            place.rename(place.with_name("away"))
        elif not place.exists():
            place.with_name("away").rename(place)
        return ""

    proxy.fault = come_and_go
    assert store.delete("key")
    assert hidden
    assert store.size("key") is None


def test_a_server_that_does_not_heed_conditions_is_refused(proxy: servers.Proxy, spool: pathlib.Path) -> None:
    """The proxy answers in the place of such a server: each create succeeds."""
    proxy.fault = lambda request: "200" if request.method == "PUT" else ""
    store = s3.S3Backend(servers.settings(proxy.url, spool, "heedless"))
    with pytest.raises(errors.ArchiveRefused, match="conditional"):
        store.put("key", [b"x"])


def test_uploads_take_no_memory(store: s3.S3Backend) -> None:
    piece = os.urandom(units.MIB)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    uploads = [store.upload(f"pack-{number}") for number in range(6)]
    for _ in range(48):
        for upload in uploads:
            upload.append([piece])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    for upload in uploads:
        upload.discard()
    assert grown < 32 * units.KIB, "288 MiB of packs were kept in memory"


@pytest.mark.parametrize("seed", range(3))
def test_an_archive_behind_a_bad_line_is_whole_or_says_why(
    proxy: servers.Proxy, spool: pathlib.Path, tmp_path: pathlib.Path, seed: int
) -> None:
    """One request in six fails, in one way or another."""
    store = s3.S3Backend(servers.settings(proxy.url, spool, f"bad-line-{seed}", timeout_s=1.0, retry_s=20.0))
    count = seed

    def fault(_request: servers.Request) -> str:
        nonlocal count
        count += 1
        return ("500", "swallow", "cut", "503")[count // 6 % 4] if count % 6 == 0 else ""

    proxy.fault = fault
    archive = repository.Repository.open(store, tmp_path / "index.sqlite3", "host-1", block_size=BLOCK)
    disks: dict[int, dict[int, bytes]] = {}
    try:
        for number in range(3):
            base = f"snap-{number - 1}" if number else None
            with archive.begin("env", f"snap-{number}", 8 * BLOCK, base) as recording:
                disks[number] = dict(disks.get(number - 1, {}))
                for block in range(number, 8, 2):
                    disks[number][block] = content((number, block))
                    recording.put(block, disks[number][block])
                recording.commit({})
        archive.delete_snapshot("env", "snap-0")
        archive.upkeep.collect()
        for number in (1, 2):
            found = archive.manifest("env", f"snap-{number}")
            assert {block: found.read(block) for block in disks[number]} == disks[number]
    finally:
        archive.close()
