"""snapvol volume chain: the image files of a volume, drawn from its head downwards."""

import click

from snapd import units
from snapd.cli import names, output, session
from snapd.v1 import volume_service_pb2 as api

_NAMED = 3
"""Other volumes that are named in a row."""


def _layer(layer: api.Layer) -> str:
    """Return a layer as it is drawn: where others come in, the line forks."""
    sign = "●" if layer.state == api.Layer.STATE_HEAD else "├" if layer.volume_count else "│"
    return f"{sign} {layer.depth:2} {output.enum(api.Layer.State.DESCRIPTOR, layer.state)}"


def _volumes(layer: api.Layer) -> str:
    named = [names.short(name) for name in layer.volumes[:_NAMED]]
    more = layer.volume_count - len(named)
    return ", ".join([*named, *([f"{more} more"] if more else [])])


_COLUMNS: list[output.Column] = [
    ("LAYER", _layer),
    ("SIZE", lambda layer: units.format_size(layer.size_bytes)),
    ("ALLOCATED", lambda layer: units.format_size(layer.allocated_bytes)),
    ("CREATED", lambda layer: output.moment(layer.create_time)),
    ("SNAPSHOTS", lambda layer: ", ".join(map(names.short, layer.snapshots))),
    ("ALSO UNDER", _volumes),
]


@click.command(cls=session.Command)
@click.argument("name")
@session.pass_session
def chain(run: session.Session, name: str) -> None:
    """Draw the layers of a volume: what each takes, its snapshots, and the other volumes that stand on it."""
    request = api.GetVolumeChainRequest(name=names.full("volumes", name, run.environment))
    output.resources(run, run.client.volumes.GetVolumeChain(request).layers, _COLUMNS)
