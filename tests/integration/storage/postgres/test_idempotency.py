"""On PostgreSQL."""

from tests.unit.storage.test_idempotency import *  # noqa: F403
