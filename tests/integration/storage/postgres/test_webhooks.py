"""On PostgreSQL."""

from tests.unit.storage.test_webhooks import *  # noqa: F403
