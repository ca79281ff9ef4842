"""Pages of a listing: filters, order and page tokens, turned into one SQL statement.

A page token holds the place after which the next page begins (the order's key and the uid), so pages stay right when
rows come and go, and a hash of everything else that the listing depends on, so that it can't be used for another.
"""

import base64
import binascii
import dataclasses
import datetime
import enum
import hashlib
import json
import re
import sqlite3
from collections.abc import Callable, Mapping
from typing import TypeVar

from snapd import errors, model
from snapd.catalog import db

T = TypeVar("T")

MOST_TERMS = 16
MOST_FILTER_BYTES = 1024
_MOST_TOKEN_BYTES = 2048
_LARGEST_KEY = (1 << 63) - 1


class FieldType(enum.Enum):
    """How a filter's value is read."""

    TEXT = enum.auto()
    FLAG = enum.auto()
    TIME = enum.auto()
    SIZE = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """Something that can be filtered on, and maybe ordered by."""

    sql: str
    type: FieldType = FieldType.TEXT
    orders: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A table that can be listed."""

    select: str
    """SELECT … FROM …, without a WHERE."""
    alias: str
    """The table's alias, which has uid, environment_uid and labels."""
    fields: Mapping[str, Field]
    scoped: bool = True
    """Its rows belong to environments."""


_TERM = re.compile(
    r"""\s*(?P<field>[a-z_]+(?:\.[a-z0-9][a-z0-9._/-]{0,62})?)\s*
        (?P<operator>!=|<=|>=|=|<|>|:)\s*
        (?P<value>"(?:[^"\\]|\\.)*"|[^\s"]+)\s*""",
    re.VERBOSE,
)
_AND = re.compile(r"AND\s+")


@dataclasses.dataclass(frozen=True, slots=True)
class Term:
    """One comparison of a filter."""

    field: str
    operator: str
    value: str


def parse_filter(text: str) -> list[Term]:
    """Read a filter: comparisons joined by AND. Raises errors.InvalidFilter."""
    if len(text.encode()) > MOST_FILTER_BYTES:
        raise errors.InvalidFilter(problem=f"longer than {MOST_FILTER_BYTES} bytes")
    terms: list[Term] = []
    position = 0
    while position < len(text):
        if terms:
            joint = _AND.match(text, position)
            if joint is None:
                raise errors.InvalidFilter(problem=f"expected AND at {text[position : position + 20]!r}")
            position = joint.end()
        match = _TERM.match(text, position)
        if match is None:
            raise errors.InvalidFilter(problem=f"can't read {text[position : position + 20]!r}")
        value = match["value"]
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        terms.append(Term(match["field"], match["operator"], value))
        position = match.end()
        if len(terms) > MOST_TERMS:
            raise errors.InvalidFilter(problem=f"more than {MOST_TERMS} terms")
    return terms


def _value(term: Term, field: Field) -> db.Value:
    problem = None
    match field.type:
        case FieldType.TEXT:
            return term.value
        case FieldType.FLAG:
            if term.value in ("true", "false"):
                return int(term.value == "true")
            problem = "is true or false"
        case FieldType.SIZE:
            if re.fullmatch(r"[0-9]{1,18}", term.value):
                return int(term.value)
            problem = "is a number of bytes"
        case FieldType.TIME:
            try:
                moment = datetime.datetime.fromisoformat(term.value)
            except ValueError:
                moment = None
            if moment is not None and moment.tzinfo is not None:
                return db.to_us(moment)
            problem = "is a time as 2026-01-31T12:00:00Z"
    raise errors.InvalidFilter(problem=f"{term.field} {problem}, not {term.value!r}")


def _condition(term: Term, source: Source, number: int) -> tuple[str, dict[str, db.Value]]:
    name = f"filter{number}"
    if term.field.startswith("labels."):
        key = term.field.removeprefix("labels.")
        path: dict[str, db.Value] = {f"{name}_path": f'$."{key}"'}
        label = f"json_extract({source.alias}.labels, :{name}_path)"
        if term.operator == ":" and term.value == "*":
            return f"{label} IS NOT NULL", path
        if term.operator == "=":
            return f"{label} = :{name}", path | {name: term.value}
        if term.operator == "!=":
            return f"{label} IS NOT :{name}", path | {name: term.value}
        raise errors.InvalidFilter(problem=f"labels know =, != and :*, not {term.operator}{term.value}")
    field = source.fields.get(term.field)
    if field is None:
        known = ", ".join([*source.fields, "labels.KEY"])
        raise errors.InvalidFilter(problem=f"{term.field} is not one of {known}")
    if term.operator == ":" or (field.type is FieldType.FLAG and term.operator not in ("=", "!=")):
        raise errors.InvalidFilter(problem=f"{term.field} can't be compared with {term.operator}")
    return f"{field.sql} {term.operator} :{name}", {name: _value(term, field)}


def _order(query: model.Query, source: Source) -> tuple[str, bool]:
    """Return the SQL expression to order by, and whether downwards."""
    words = query.order_by.split()
    name = words[0] if words else "name"
    field = source.fields.get(name)
    if field is None or not field.orders or len(words) > 2 or words[1:] not in ([], ["asc"], ["desc"]):
        known = ", ".join(name for name, field in source.fields.items() if field.orders)
        raise errors.InvalidField(field="order_by", problem=f"is one of {known}, followed by desc or not")
    return field.sql, words[1:] == ["desc"]


def _digest(query: model.Query) -> str:
    bound = json.dumps([query.environment, query.identity, query.filter, query.order_by])
    return hashlib.sha256(bound.encode()).hexdigest()[:16]


def _encode_token(query: model.Query, key: db.Value, uid: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([_digest(query), key, uid]).encode()).decode()


def _decode_token(query: model.Query) -> tuple[db.Value, str]:
    try:
        if len(query.page_token) > _MOST_TOKEN_BYTES:
            raise ValueError("too long")
        digest, key, uid = json.loads(base64.b64decode(query.page_token, altchars=b"-_", validate=True))
    except (ValueError, TypeError, binascii.Error, RecursionError) as error:
        raise errors.InvalidPageToken(problem="it was not handed out by this server") from error
    if digest != _digest(query):
        raise errors.InvalidPageToken(problem="it belongs to a listing with other parameters")
    if not _is_bindable(key) or not isinstance(uid, str) or not _is_bindable(uid):
        raise errors.InvalidPageToken(problem="it was not handed out by this server")
    return key, uid


def _is_bindable(value: object) -> bool:
    """Say whether SQLite takes a value that came out of a page token as a key."""
    if isinstance(value, str):
        return value.isprintable()
    return isinstance(value, int) and abs(value) <= _LARGEST_KEY


def page(
    connection: sqlite3.Connection,
    source: Source,
    query: model.Query,
    environment_uid: str | None,
    convert: Callable[[sqlite3.Row], T],
) -> model.Page[T]:
    """Return one page; environment_uid None means all environments.

    Raises errors.InvalidFilter, errors.InvalidPageToken, errors.InvalidField.
    """
    key, descending = _order(query, source)
    conditions: list[str] = []
    values: dict[str, db.Value] = {"limit": query.page_size + 1}
    if source.scoped and environment_uid is not None:
        conditions.append(f"{source.alias}.environment_uid = :environment_uid")
        values["environment_uid"] = environment_uid
    for number, term in enumerate(parse_filter(query.filter)):
        condition, more = _condition(term, source, number)
        conditions.append(condition)
        values |= more
    if query.page_token:
        values["after_key"], values["after_uid"] = _decode_token(query)
        conditions.append(f"({key}, {source.alias}.uid) {'<' if descending else '>'} (:after_key, :after_uid)")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    direction = "DESC" if descending else "ASC"
    # Only expressions of the sources above are pasted in; everything a caller sent is bound.
    sql = (
        source.select.replace(" FROM ", f", {key} AS order_key FROM ", 1)
        + f"{where} ORDER BY {key} {direction}, {source.alias}.uid {direction} LIMIT :limit"
    )
    rows = connection.execute(sql, values).fetchall()
    more_to_come = len(rows) > query.page_size
    rows = rows[: query.page_size]
    token = _encode_token(query, rows[-1]["order_key"], rows[-1]["uid"]) if more_to_come else ""
    return model.Page(tuple(convert(row) for row in rows), token)
