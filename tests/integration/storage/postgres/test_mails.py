"""On PostgreSQL."""

from tests.unit.storage.test_mails import *  # noqa: F403
