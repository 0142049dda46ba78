"""What a request under an Idempotency-Key made, noted with it: a repeat finds it even if nobody lived to answer"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("idempotency_records", sa.Column("target_id", sa.String(length=40), nullable=True))


def downgrade() -> None:
    op.drop_column("idempotency_records", "target_id")
