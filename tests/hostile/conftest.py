"""What the hostile tests run on: the worker that tries files, a patient, and the service's own world."""

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
