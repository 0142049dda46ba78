"""When what a job's attempts left behind was swept, and indexes that keep publishing flat however long the queue"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

PARTIAL = {
    "ix_jobs_unpublished": ("created_at", "published_at IS NULL AND completed_at IS NULL"),
    "ix_jobs_unswept": ("completed_at", "completed_at IS NOT NULL AND swept_at IS NULL"),
}


def upgrade() -> None:
    op.add_column("jobs", sa.Column("swept_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_index(op.f("ix_jobs_state"), "jobs")
    op.create_index("ix_jobs_state_kind_published", "jobs", ["state", "kind", "published_at"], unique=False)
    for name, (column, condition) in PARTIAL.items():
        op.create_index(name, "jobs", [column], unique=False, sqlite_where=sa.text(condition), postgresql_where=sa.text(condition))


def downgrade() -> None:
    for name in PARTIAL:
        op.drop_index(name, "jobs")
    op.drop_index("ix_jobs_state_kind_published", "jobs")
    op.create_index(op.f("ix_jobs_state"), "jobs", ["state"], unique=False)
    op.drop_column("jobs", "swept_at")
