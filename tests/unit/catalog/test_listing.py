"""Pages of listings: filters, orders, tokens, whoever made them."""

import base64
import dataclasses
import datetime
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapd import errors, model
from snapd.catalog import db, listing, volumes
from tests.unit.catalog import rows

QUERY = model.Query("env", "me", 3, "", "", "")


@pytest.fixture
def ten(catalog: db.Catalog) -> db.Catalog:
    """Make ten volumes, two of each moment, in no order."""
    numbers = list(range(10))
    random.Random(3).shuffle(numbers)
    with catalog.transaction() as tx:
        rows.environment(tx)
        for number in numbers:
            labels = {"parity": "even"} if number % 2 == 0 else {"app.x/y-z": "quote \" and 'quote'"}
            created = rows.NOW + datetime.timedelta(seconds=number // 2)
            rows.volume(tx, f"v{number}", created=created, size_bytes=512 * (number + 1), labels=labels)
    return catalog


def _page(catalog: db.Catalog, query: model.Query) -> model.Page[model.Volume]:
    return volumes.page(catalog.reader(), query, "env")


def _ids(catalog: db.Catalog, query: model.Query) -> list[str]:
    """Return the ids on all pages."""
    found: list[str] = []
    while True:
        page = _page(catalog, query)
        found += [volume.id for volume in page.items]
        if not page.next_page_token:
            return found
        assert len(page.items) == query.page_size
        query = dataclasses.replace(query, page_token=page.next_page_token)


def _filtered(catalog: db.Catalog, text: str) -> list[str]:
    return _ids(catalog, dataclasses.replace(QUERY, filter=text, order_by="name"))


@pytest.mark.parametrize("page_size", [1, 2, 3, 9, 10, 11])
@pytest.mark.parametrize(
    "order_by", ["", "name", "name desc", "create_time", "create_time desc", "size_bytes asc", "  size_bytes   desc "]
)
def test_all_pages_together_hold_everything_once_in_order(ten: db.Catalog, order_by: str, page_size: int) -> None:
    found = _ids(ten, dataclasses.replace(QUERY, order_by=order_by, page_size=page_size))
    expected = [f"v{number}" for number in range(10)]
    assert found == (expected[::-1] if "desc" in order_by else expected)


@pytest.mark.parametrize("order_by", ["create_time", "name desc"])
def test_rows_that_come_and_go_between_pages_disturb_no_others(ten: db.Catalog, order_by: str) -> None:
    source = random.Random(7)
    query = dataclasses.replace(QUERY, order_by=order_by, page_size=2)
    seen: list[str] = []
    gone: set[str] = set()
    for number in range(100):
        page = _page(ten, query)
        seen += [volume.id for volume in page.items]
        if not page.next_page_token:
            break
        query = dataclasses.replace(query, page_token=page.next_page_token)
        with ten.transaction() as tx:
            victim = f"v{source.randrange(10)}"
            gone.add(victim)
            tx.execute("DELETE FROM volumes WHERE uid = ?", (victim,))
            rows.volume(tx, f"new{number}", created=rows.NOW + datetime.timedelta(seconds=source.randrange(9)))
    assert len(seen) == len(set(seen))
    assert {f"v{number}" for number in range(10)} - set(seen) <= gone


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", range(10)),
        ('labels.parity = "even"', range(0, 10, 2)),
        ("labels.parity:*", range(0, 10, 2)),
        ('labels.parity != "even"', range(1, 10, 2)),
        ('labels.app.x/y-z = "quote \\" and \'quote\'"', range(1, 10, 2)),
        ("size_bytes > 4096 AND size_bytes <= 4608", [8]),
        ("name = v3", [3]),
        ('name != "v3" AND size_bytes < 2048', [0, 1, 2]),
        ("state = READY", range(10)),
        ("state = FAILED", []),
        ("create_time >= 2026-03-01T12:00:04Z", [8, 9]),
        ('create_time < "2026-03-01T13:00:01+01:00"', [0, 1]),
        ("name = \"v1' OR '1'='1\"", []),
        ('name = "v1\\" OR 1=1 --"', []),
    ],
)
def test_a_filter_keeps_what_it_describes(ten: db.Catalog, text: str, numbers: range | list[int]) -> None:
    assert _filtered(ten, text) == [f"v{number}" for number in numbers]


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "name =",
        "= v1",
        "name = v1 OR name = v2",
        "name = v1 name = v2",
        "name = v1 AND",
        "colour = blue",
        "name:v1",
        "labels = x",
        "labels.parity > even",
        "labels.PARITY = even",
        "size_bytes = many",
        "size_bytes = 99999999999999999999",
        "create_time > yesterday",
        "create_time > 2026-03-01",
        'name = "v1',
        " AND ".join(["name = v1"] * (listing.MOST_TERMS + 1)),
        "name = " + "v" * listing.MOST_FILTER_BYTES,
        "name = v1; DROP TABLE volumes",
    ],
)
def test_a_filter_that_can_not_be_read_is_refused(ten: db.Catalog, text: str) -> None:
    with pytest.raises(errors.InvalidFilter):
        _filtered(ten, text)


@pytest.mark.parametrize(
    "order_by", ["colour", "role", "name down", "name desc size_bytes", "name, uid", "1; DROP TABLE"]
)
def test_an_order_that_does_not_exist_is_refused(ten: db.Catalog, order_by: str) -> None:
    with pytest.raises(errors.InvalidField):
        _ids(ten, dataclasses.replace(QUERY, order_by=order_by))


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(QUERY, filter="name != x"),
        dataclasses.replace(QUERY, order_by="name"),
        dataclasses.replace(QUERY, environment="other"),
        dataclasses.replace(QUERY, identity="you"),
    ],
    ids=["filter", "order", "environment", "identity"],
)
def test_a_token_belongs_to_its_listing(ten: db.Catalog, other: model.Query) -> None:
    token = _page(ten, QUERY).next_page_token
    with pytest.raises(errors.InvalidPageToken, match="other parameters"):
        _page(ten, dataclasses.replace(other, page_token=token))


def test_a_token_is_good_for_another_page_size(ten: db.Catalog) -> None:
    token = _page(ten, QUERY).next_page_token
    page = _page(ten, dataclasses.replace(QUERY, page_token=token, page_size=50))
    assert [volume.id for volume in page.items] == [f"v{number}" for number in range(3, 10)]


def _digest(catalog: db.Catalog) -> str:
    """Return what a true token begins with."""
    digest: str = json.loads(base64.urlsafe_b64decode(_page(catalog, QUERY).next_page_token))[0]
    return digest


def _token(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "not base64!",
        _token("text"),
        _token(7),
        _token([]),
        _token({"a": 1}),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
        base64.urlsafe_b64encode(b"[" * 1000).decode(),
        base64.urlsafe_b64encode(b"9" * 1500).decode(),
        "A" * 4096,
    ],
)
def test_a_token_that_was_made_up_is_refused(ten: db.Catalog, token: str) -> None:
    with pytest.raises(errors.InvalidPageToken):
        _page(ten, dataclasses.replace(QUERY, page_token=token))


@pytest.mark.parametrize(
    "place",
    [
        [None, "u"],
        [1.5, "u"],
        [[1], "u"],
        [1, 2],
        [1, None],
        [1 << 63, "u"],
        [-(1 << 70), "u"],
        ["\ud800", "u"],
        [1, "\ud800"],
    ],
    ids=str,
)
def test_a_forged_place_is_refused(ten: db.Catalog, place: list[object]) -> None:
    with pytest.raises(errors.InvalidPageToken):
        _page(ten, dataclasses.replace(QUERY, page_token=_token([_digest(ten), *place])))


def test_a_forged_place_shows_nothing_of_other_environments(ten: db.Catalog) -> None:
    with ten.transaction() as tx:
        rows.environment(tx, "other")
        rows.volume(tx, "secret", environment_uid="other")
    page = _page(ten, dataclasses.replace(QUERY, page_size=50, page_token=_token([_digest(ten), -1, ""])))
    assert len(page.items) == 10
    assert "secret" not in {volume.id for volume in page.items}


def test_a_volume_shows_what_is_under_way_on_it(ten: db.Catalog) -> None:
    with ten.transaction() as tx:
        rows.layer(tx, "L")
        rows.point(tx, "P", None, "L")
        rows.snapshot(tx, "S", "P", volume_uid="v4", state=model.SnapshotState.IN_PROGRESS)
    assert _filtered(ten, "state = SNAPSHOT_IN_PROGRESS") == ["v4"]
    found = volumes.by_uid(ten.reader(), "v4")
    assert found is not None
    assert found.state is model.VolumeState.SNAPSHOT_IN_PROGRESS


@given(st.text(max_size=200))
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    try:
        terms = listing.parse_filter(text)
    except errors.InvalidFilter:
        return
    assert len(terms) <= listing.MOST_TERMS
