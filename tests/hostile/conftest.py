"""Hostile images and documents: sixty cases, each under limits of memory and time, files unchanged, no name followed.

    1-36    headers                                test_refused_at_open, test_names_and_links (5, 33-35)
    12-18, 29   snapshots and bitmaps              test_snapshots_and_bitmaps
    37, 40  circles, links, FIFOs, swaps           test_names_and_links
    38, 39  labels                                 test_labels; test_damaged_imports sends damage to a service
    41-48, 52   entries                            test_corrupt_entries
    49-51, 59   refcounts and sharing              test_references
    53-55   dirty, corrupt, unknown features       test_feature_bits
    56-58   files that shrink, bombs               test_bounded_work
    60      documents of an archive                test_archive_documents

Sound images pay for none of it: test_sound_images. `surgery` makes images, `worker` tries them in children of its own,
`trial` holds it to the limits, `actions` are what is tried.
"""

import pathlib
from collections.abc import Iterator

import pytest

from tests.hostile import surgery, trial
from tests.unit.service.conftest import world

__all__ = ["world"]


@pytest.fixture(scope="session")
def worker() -> Iterator[trial.Worker]:
    """Give the process that tries files."""
    worker = trial.Worker()
    try:
        yield worker
    finally:
        worker.close()


@pytest.fixture
def patient(tmp_path: pathlib.Path) -> surgery.Patient:
    """Give a sound image to operate on."""
    return surgery.Patient(tmp_path / "disk")
