"""Ids: which of several that want one has it, what the others are called, and what isn't believed of a description."""

import dataclasses
import datetime
import hashlib
import re
import unicodedata
import uuid
from collections.abc import Iterable, Mapping
from typing import Final

_ID: Final = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL_KEY: Final = re.compile(r"[a-z]([a-z0-9_./-]{0,61}[a-z0-9])?")
_LONGEST_ID: Final = 63
_LONGEST_TEXT: Final = 128
_LONGEST_LABEL: Final = 256
_MOST_LABELS: Final = 64
_DIGITS: Final = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """A resource that wants an id within a scope."""

    uid: str
    scope: str
    """Uid of its environment; '' for environments themselves."""
    id: str
    with_contents: bool
    created: datetime.datetime


def settle(wanted: Iterable[Wanted]) -> dict[str, str]:
    """Return the ids of all, by their uids: one with contents comes first, then the newer one."""
    settled: dict[str, str] = {}
    taken: set[tuple[str, str]] = set()
    late: list[Wanted] = []
    for one in sorted(wanted, key=lambda one: (one.with_contents, one.created, one.uid), reverse=True):
        if (one.scope, one.id) in taken:
            late.append(one)
        else:
            settled[one.uid] = one.id
            taken.add((one.scope, one.id))
    for one in late:
        settled[one.uid] = next(name for name in _others(one.id, one.uid) if (one.scope, name) not in taken)
        taken.add((one.scope, settled[one.uid]))
    return settled


def _others(name: str, uid: str) -> Iterable[str]:
    """Yield ids with more and more of the uid behind them."""
    digits = uid.replace("-", "")
    for count in range(_DIGITS, len(digits) + 1):
        start = name[: _LONGEST_ID - count - 1].rstrip("-")
        yield f"{start}-{digits[:count]}"


def recovered_id(uid: str) -> str:
    """Return the id of a snapshot whose own isn't known any more."""
    return f"recovered-{uid[:_DIGITS]}"


def derived_uid(kind: str, uid: str) -> str:
    """Return a UUID4 that follows from another one, so that two rebuilds give the same."""
    digest = hashlib.sha256(f"{kind}/{uid}".encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def believable_id(name: str, kind: str, uid: str) -> str:
    """Return an id that a description says, or one of the kind and the uid if that is no id."""
    return name if _ID.fullmatch(name) else f"{kind}-{uid[:_DIGITS]}"


def believable_text(text: str, otherwise: str) -> str:
    """Return a text for people that a description says, if it is one."""
    return text if text and len(text) <= _LONGEST_TEXT and not _has_control(text) else otherwise


def believable_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return those of a description's labels that are some."""
    found = {
        key: value
        for key, value in labels.items()
        if _LABEL_KEY.fullmatch(key) and len(value) <= _LONGEST_LABEL and not _has_control(value)
    }
    return dict(sorted(found.items())[:_MOST_LABELS])


def _has_control(text: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)
