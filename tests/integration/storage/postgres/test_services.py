"""On PostgreSQL."""

from tests.unit.storage.test_services import *  # noqa: F403
