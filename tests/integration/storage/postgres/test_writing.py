"""On PostgreSQL."""

from tests.unit.storage.test_writing import *  # noqa: F403
