"""Descriptions of heads and snapshots: what is said is read, and what is damaged is Corrupt and nothing else."""

import contextlib
import datetime
import json
import uuid

from hypothesis import given
from hypothesis import strategies as st

from snapd import errors, model
from snapd.service import descriptions

_UIDS = st.uuids(version=4).map(str)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
_LABELS = st.dictionaries(_TEXTS, _TEXTS, max_size=8)
_MOMENTS = st.datetimes(timezones=st.just(datetime.UTC))
_PERIODS = st.none() | st.timedeltas(datetime.timedelta(0), datetime.timedelta(days=3650))

_OWNERS = st.builds(
    descriptions.Owner,
    uid=_UIDS,
    environment_uid=_UIDS,
    environment=_TEXTS,
    id=_TEXTS,
    display_name=_TEXTS,
    labels=_LABELS,
    role=st.sampled_from(model.VolumeRole),
    instance=_TEXTS,
    source_snapshot=_TEXTS,
    created=_MOMENTS,
)
_STANDS = st.builds(descriptions.Stand, point=_UIDS, environment_uid=_UIDS, layer=_UIDS)
_TAKEN = st.builds(
    descriptions.Taken,
    uid=_UIDS,
    id=_TEXTS,
    display_name=_TEXTS,
    labels=_LABELS,
    rapid=st.booleans(),
    retention=_PERIODS,
    due=_MOMENTS,
    captured=_MOMENTS,
)
_HEADS = st.builds(
    descriptions.Head,
    generation=st.integers(0, (1 << 62) - 1),
    owner=_OWNERS,
    stand=st.none() | _STANDS,
    taken=st.none() | _TAKEN,
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3),
    max_leaves=6,
)
_METADATA = {
    "snapshot_id": "s",
    "display_name": "",
    "labels": "{}",
    "environment_id": "e",
    "volume_id": "v",
    "volume_uid": str(uuid.uuid4()),
    "point_uid": str(uuid.uuid4()),
    "parent_point_uid": "",
    "captured": "2026-03-01T12:00:00+00:00",
    "requested_rapid": "true",
    "retention_s": "86400.0",
}


def _decode(data: bytes) -> descriptions.Head | None:
    """Return what is understood; anything but errors.Corrupt gets out."""
    with contextlib.suppress(errors.Corrupt):
        head = descriptions.decode_head(data)
        # What is believed can be written down again.
        descriptions.encode_head(head)
        return head
    return None


@given(_HEADS)
def test_a_head_is_read_as_it_was_described(head: descriptions.Head) -> None:
    assert descriptions.decode_head(descriptions.encode_head(head)) == head


@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_no_description(data: bytes) -> None:
    assert _decode(data) is None


@given(_HEADS, st.data())
def test_a_description_with_flipped_bits_is_read_or_corrupt(head: descriptions.Head, data: st.DataObject) -> None:
    damaged = bytearray(descriptions.encode_head(head))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    _decode(bytes(damaged))
    _decode(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))


@given(_HEADS, _JSON, st.data())
def test_a_description_with_other_members_is_read_or_corrupt(
    head: descriptions.Head, value: object, data: st.DataObject
) -> None:
    document = json.loads(descriptions.encode_head(head))
    part = data.draw(st.sampled_from([document, *(each for each in document.values() if isinstance(each, dict))]))
    part[data.draw(st.sampled_from(sorted(part)))] = value
    _decode(json.dumps(document).encode())


@given(st.dictionaries(st.sampled_from(sorted(_METADATA)), _JSON, max_size=3))
def test_metadata_with_other_members_are_read_or_corrupt(changed: dict[str, object]) -> None:
    with contextlib.suppress(errors.Corrupt):
        found = descriptions.decode_metadata(_METADATA | changed)
        for text in (found.id, found.display_name, found.environment, found.volume, *found.labels.values()):
            text.encode()
        assert found.captured.tzinfo is not None


@given(st.sampled_from(sorted(_METADATA)))
def test_metadata_with_a_missing_member_are_read_or_corrupt(name: str) -> None:
    with contextlib.suppress(errors.Corrupt):
        descriptions.decode_metadata({key: value for key, value in _METADATA.items() if key != name})


def test_half_a_character_gets_no_further() -> None:
    assert _decode(b'{"version":1,"generation":1,"owner":{"id":"\\ud800"}}') is None
