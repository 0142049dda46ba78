"""On PostgreSQL."""

from tests.unit.storage.test_erasure import *  # noqa: F403
