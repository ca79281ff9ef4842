from snapd.live import features

SCHEMA: list[dict[str, object]] = [
    {"name": "blockdev-del", "meta-type": "command", "arg-type": "1"},
    {"name": "1", "meta-type": "object", "members": [{"name": "node-name", "type": "str"}]},
    {"name": "transaction", "meta-type": "event", "arg-type": "1"},
]


def test_commands_and_arguments_that_a_schema_lacks_are_named() -> None:
    assert features.missing(SCHEMA, {"blockdev-del": ["node-name"]}) == []
    assert features.missing(SCHEMA, {"blockdev-del": ["node-name", "force"]}) == ["blockdev-del.force"]
    assert features.missing(SCHEMA, {"blockdev-add": ["driver"], "transaction": []}) == ["blockdev-add", "transaction"]
