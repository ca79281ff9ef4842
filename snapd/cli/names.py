"""Short names and full ones: `root` with an environment, or `environments/blue/volumes/root`.

It owns what a user may write for a resource. Whether the resource is there, only the daemon knows.
"""

import click

ALL = "environments/-"
"""The parent that stands for every environment."""


def environment(text: str) -> str:
    """Return an environment's full name. Raises click.UsageError if the text can't be one."""
    if not text:
        raise click.UsageError("say which environment: with --environment, SNAPVOL_ENVIRONMENT or a full name")
    parts = text.split("/")
    if len(parts) == 1:
        return f"environments/{text}"
    if len(parts) == 2 and parts[0] == "environments" and parts[1]:
        return text
    raise click.UsageError(f"{text!r} is not an environment's id or name")


def parent(text: str) -> str:
    """Return the parent of a list: an environment, or all of them if none is given."""
    return environment(text) if text else ALL


def full(collection: str, text: str, environment_text: str) -> str:
    """Return the full name of a member of a collection ('volumes'). Raises click.UsageError if it can't be one."""
    parts = text.split("/")
    if len(parts) == 1 and text:
        return f"{environment(environment_text)}/{collection}/{text}"
    if len(parts) == 4 and parts[0] == "environments" and parts[2] == collection and parts[1] and parts[3]:
        return text
    raise click.UsageError(f"{text!r} is neither an id nor environments/…/{collection}/…")


def split(collection: str, text: str, environment_text: str) -> tuple[str, str]:
    """Return the parent and the id of something that is to be made; no id if the text is empty."""
    if not text:
        return environment(environment_text), ""
    name = full(collection, text, environment_text)
    head, _, identifier = name.rpartition(f"/{collection}/")
    return head, identifier


def archived_snapshot(text: str) -> str:
    """Return the full name of what a host has archived, from HOST/ENVIRONMENT_UID/SNAPSHOT_UID or the full name.

    Raises click.UsageError if it can't be one.
    """
    parts = text.split("/")
    if len(parts) == 3 and all(parts):
        return f"hosts/{parts[0]}/environments/{parts[1]}/snapshots/{parts[2]}"
    if len(parts) == 6 and parts[::2] == ["hosts", "environments", "snapshots"] and all(parts):
        return text
    raise click.UsageError(
        f"{text!r} is neither HOST/ENVIRONMENT_UID/SNAPSHOT_UID nor hosts/…/environments/…/snapshots/…"
    )


def short(name: str) -> str:
    """Return the last part of a name."""
    return name.rpartition("/")[2]
