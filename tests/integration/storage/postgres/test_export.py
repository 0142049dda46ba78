"""On PostgreSQL."""

from tests.unit.storage.test_export import *  # noqa: F403
