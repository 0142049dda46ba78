"""Webhook secrets that overlap, a log of attempts, notices of retention, and indexes of what waits"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ENDED = {"mails": "sent_at", "webhook_deliveries": "delivered_at"}


def upgrade() -> None:
    # Never batch_alter_table here: SQLite would make the table anew, and dropping the old one cascades to the rows that refer to it.
    op.add_column("webhooks", sa.Column("previous_secret", sa.String(length=120), nullable=True))
    op.add_column("webhooks", sa.Column("previous_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("webhook_deliveries", sa.Column("history", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("erasures", sa.Column("about", sa.JSON(), nullable=False, server_default="{}"))
    op.create_index(op.f("ix_webhook_deliveries_created_at"), "webhook_deliveries", ["created_at"], unique=False)
    for name, ended in ENDED.items():
        op.drop_index(op.f(f"ix_{name}_next_attempt_at"), name)
        waits = sa.text(f"{ended} IS NULL AND failed_at IS NULL")
        op.create_index(f"ix_{name}_waiting", name, ["next_attempt_at"], unique=False, sqlite_where=waits, postgresql_where=waits)
    op.create_table(
        "retention_notices",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("account_id", sa.String(length=40), nullable=False),
        sa.Column("scope", sa.String(length=16), nullable=False),
        sa.Column("target_id", sa.String(length=40), nullable=False),
        sa.Column("unused_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("erase_after", sa.DateTime(timezone=True), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_retention_notices_account_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retention_notices")),
        sa.UniqueConstraint("scope", "target_id", name=op.f("uq_retention_notices_scope_target_id")),
    )
    op.create_index(op.f("ix_retention_notices_account_id"), "retention_notices", ["account_id"], unique=False)
    op.create_index(op.f("ix_retention_notices_erase_after"), "retention_notices", ["erase_after"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_retention_notices_erase_after"), "retention_notices")
    op.drop_index(op.f("ix_retention_notices_account_id"), "retention_notices")
    op.drop_table("retention_notices")
    for name in ENDED:
        op.drop_index(f"ix_{name}_waiting", name)
        op.create_index(op.f(f"ix_{name}_next_attempt_at"), name, ["next_attempt_at"], unique=False)
    op.drop_index(op.f("ix_webhook_deliveries_created_at"), "webhook_deliveries")
    op.drop_column("erasures", "about")
    op.drop_column("webhook_deliveries", "history")
    op.drop_column("webhooks", "previous_until")
    op.drop_column("webhooks", "previous_secret")
