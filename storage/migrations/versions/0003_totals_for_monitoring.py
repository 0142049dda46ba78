"""Totals of ended jobs, which outlive their accounts, and the mark that a job was added to them"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "totals",
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("labels", sa.String(length=300), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", "labels", name=op.f("pk_totals")),
    )
    op.add_column("jobs", sa.Column("counted_at", sa.DateTime(timezone=True), nullable=True))
    waits = sa.text("completed_at IS NOT NULL AND counted_at IS NULL")
    op.create_index("ix_jobs_uncounted", "jobs", ["completed_at"], unique=False, sqlite_where=waits, postgresql_where=waits)


def downgrade() -> None:
    op.drop_index("ix_jobs_uncounted", "jobs")
    op.drop_column("jobs", "counted_at")
    op.drop_table("totals")
