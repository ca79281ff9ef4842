"""A day in the life of a daemon: what the crash tests interrupt everywhere."""

from snapd.v1 import volume_service_pb2 as volumes
from tests.crash import marks, script


def story(qcow2_image: bytes, qcow2_data: bytes) -> list[script.Step]:
    """Return the steps. Together they pass every named point; both folds come, up and then down."""
    data = script.noise(script.SIZE)
    return [
        script.environment(),
        script.environment("environments/b"),
        marks.delete_environment("environments/b"),
        marks.rename_environment("all of it"),
        script.import_volume("q", qcow2_image, qcow2_data, volumes.IMAGE_FORMAT_QCOW2),
        script.snapshot("of-q", "q", rapid=False),
        script.delete_volume("q"),
        script.clone("back", "of-q"),
        script.fetch("copy", "of-q"),
        script.verify("of-q"),
        script.scrub(),
        script.delete_snapshot("of-q"),
        script.collect(),
        script.collected(),
        script.import_volume("v", data, data),
        marks.rename_volume("v", "the volume"),
        script.snapshot("rapid", "v", rapid=True),
        marks.rename_snapshot("rapid", "before all"),
        marks.pause(),
        marks.cancelled_archive("rapid"),
        marks.resume(),
        script.write("v", 512, script.noise(script.CLUSTER)),
        script.snapshot("regular", "v", rapid=False),
        script.write("v", 3 * script.CLUSTER + 1024, script.noise(4 * script.CLUSTER)),
        script.snapshot("low", "v", rapid=True),
        script.write("v", 4 * script.CLUSTER, script.noise(8 * script.CLUSTER)),
        script.snapshot("middle", "v", rapid=True),
        script.write("v", 5 * script.CLUSTER, script.noise(512)),
        script.snapshot("high", "v", rapid=True),
        script.clone("c", "low"),
        script.revert("v", "rapid"),
        script.revert("v", "high"),
        script.delete_volume("c"),
        # Little below much is folded up, much below little is folded down.
        script.delete_snapshot("low"),
        script.delete_snapshot("middle"),
        script.archive("high"),
        script.revert("v", "regular"),
        marks.check("v"),
        script.delete_snapshot("high"),
    ]
