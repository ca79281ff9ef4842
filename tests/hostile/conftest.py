"""The service that hostile images are sent to is the one that the service's own tests run."""

from tests.unit.service.conftest import world

__all__ = ["world"]
