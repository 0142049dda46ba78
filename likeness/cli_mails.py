"""``likeness mails``: what was given up, and once more when the cause is mended."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from core.errors import UserError
from likeness.plain import out, plainly, settings_with

app = typer.Typer(no_args_is_help=True, help="Look at mails that were given up, send them again.")

COLUMNS = ("mail", "account", "template", "attempts", "given up", "because")


@app.command("failed")
@plainly
def failed(limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, newest first.")] = 50) -> None:
    """Mails that were refused for good or given up. Names no customer: ids only."""
    from storage import mails
    from storage.wiring import open_storage

    table = Table(*COLUMNS, box=None, pad_edge=False)
    with open_storage(settings_with()).db.reader() as session:
        for mail in mails.dead_letters(session, limit):
            at = mail.failed_at.isoformat(timespec="seconds") if mail.failed_at else ""
            because = mail.last_error.replace(mail.to, "(address)")
            table.add_row(mail.id, mail.account_id or "", mail.template, str(mail.attempts), at, because)
    out.print(table)


@app.command("retry")
@plainly
def retry(
    mail_id: Annotated[str, typer.Argument(metavar="[MAIL]", help="The mail's id, from «likeness mails failed».")] = "",
    everything: Annotated[bool, typer.Option("--all", help="All that were given up.")] = False,
) -> None:
    """Give a mail all its attempts anew; the scheduler sends it within seconds."""
    from storage import mails
    from storage.wiring import open_storage

    if bool(mail_id) == everything:
        raise UserError("mails/which", "Which mail?", "Give its id, or --all.")
    with open_storage(settings_with()).db.session() as session:
        count = mails.send_again(session, mail_id or None)
    out.print(f"{count} will be sent again")
