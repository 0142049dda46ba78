"""Lists of trainings and portraits are read in their order, not sorted anew for each page"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

OWNERS = (("trainings", "account_id"), ("portraits", "account_id"), ("portraits", "adapter_id"))


def upgrade() -> None:
    for table, owner in OWNERS:
        op.drop_index(op.f(f"ix_{table}_{owner}"), table)
        op.create_index(f"ix_{table}_{owner}_list", table, [owner, "created_at", "id"], unique=False)


def downgrade() -> None:
    for table, owner in OWNERS:
        op.drop_index(f"ix_{table}_{owner}_list", table)
        op.create_index(op.f(f"ix_{table}_{owner}"), table, [owner], unique=False)
