"""On PostgreSQL."""

from tests.unit.storage.test_accounts import *  # noqa: F403
