"""Commands on the customer's right: erase, prove that nothing is left, check a receipt."""

from __future__ import annotations

import json
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import UserError, not_found
from core.settings import Settings
from likeness.plain import err, out, plainly, settings_with

if TYPE_CHECKING:
    from mail.post import Post
    from storage.tables import Receipt
    from storage.wiring import Storage


class Scope(StrEnum):
    ACCOUNT = "account"
    SUBJECT = "subject"
    ADAPTER = "adapter"
    PORTRAIT = "portrait"
    PHOTO = "photo"


@plainly
def erase(
    scope: Annotated[Scope, typer.Argument(help="What to erase.")],
    target_id: Annotated[str, typer.Argument(metavar="[ID]", help="Its id; for an account, --email does as well.")] = "",
    email: Annotated[str, typer.Option(help="The account's address.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    receipt_file: Annotated[Path | None, typer.Option("--receipt", help="Write the receipt here instead of to stdout.")] = None,
) -> None:
    """Erase what a customer asks to have erased: rows, every object version, mails, workers' caches. Prints the signed receipt."""
    from mail.post import Post
    from storage import erasure
    from storage.wiring import open_storage

    settings = settings_with()
    if bool(target_id) == bool(email) or (email and scope is not Scope.ACCOUNT):
        raise UserError("erase/what", "What is to be erased?", "Give its id or, for an account, --email.")
    target_id = target_id or account_of(settings, email)
    if not yes:
        typer.confirm(f"Erase {scope} {target_id} for good?", abort=True, err=True)
    receipt = erasure.erase(open_storage(settings), Post(settings), scope, target_id)
    text = json.dumps({**receipt.body, "signature": receipt.signature}, indent=2)
    if receipt_file:
        receipt_file.write_text(text + "\n", encoding="utf-8")
        err.print(f"erased; receipt {receipt.id} in {receipt_file}")
    else:
        print(text)


@plainly
def scan(
    account: Annotated[str, typer.Option(help="The account's id, also of one that was erased.")] = "",
    email: Annotated[str, typer.Option(help="Its address: also finds rows and mails that carry it.")] = "",
) -> None:
    """List everything that still names an account: rows, object versions, sent mails. Exit code 1 if there is anything."""
    from mail.post import Post
    from storage import remains
    from storage.wiring import open_storage

    if not account and not email:
        raise UserError("scan/whom", "Whom?", "Give --account, --email, or both. After an erasure give both: nothing links them any more.")
    settings = settings_with()
    account = account or account_of(settings, email, known=False)
    found = remains.scan(open_storage(settings), account, email or None, Post(settings))
    for one in found:
        out.print(one, soft_wrap=True, markup=False)
    err.print(f"{len(found)} found" if found else f"nothing is left of {account or email}")
    if found:
        raise typer.Exit(1)


@plainly
def verify_receipt(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The receipt: JSON, as the service answered it.")],
    public_key: Annotated[str, typer.Option(help="Base64, as `likeness keys` prints it. Default: this installation's.")] = "",
) -> None:
    """Check a receipt's signature. Exit code 1 if it was altered, or signed by somebody else."""
    from storage import receipts

    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        signature = body.pop("signature")
        shown = (f"{body['scope']} erased, {body['objects']} objects in {body['object_versions']} versions", body["completed_at"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("receipt/unreadable", f"{file} is not a receipt", "It is the JSON that an erasure answers with.") from error
    if not receipts.verify(body, signature, public_key or receipts.public_key(settings_with())):
        raise UserError(
            "receipt/invalid", "The signature does not fit", "It was altered, or signed by another installation (--public-key)."
        )
    out.print(f"valid: {shown[0]}, completed {shown[1]}")
    if horizon := body.get("backups_gone_by"):
        out.print(f"gone from backups by {horizon}")


@plainly
def receipts() -> None:
    """Print every receipt, one JSON object a line. Keep them apart from the database: after a restore, `erase-again` needs them."""
    from storage import after_restore
    from storage.wiring import open_storage

    with open_storage(settings_with()).db.reader() as session:
        for line in after_restore.all_receipts(session):
            print(line)


@plainly
def erase_again(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Lines of `likeness receipts`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """After a restore: erase again what these receipts say was erased and the backup brought back."""
    from mail.post import Post
    from storage import after_restore
    from storage.wiring import open_storage

    settings = settings_with()
    storage = open_storage(settings)
    try:
        bodies = after_restore.read(file.read_text(encoding="utf-8").splitlines(), settings)
    except ValueError as error:
        raise UserError("receipts/unreadable", f"{file}: {error}", "Nothing was erased. Give the lines of `likeness receipts`.") from error
    with storage.db.reader() as session:
        back = after_restore.returned(session, bodies)
    err.print(f"{len(bodies)} receipts, {len(back)} of their targets are here")
    if back and not yes:
        typer.confirm(f"Erase {len(back)} ({back[0][0]} {back[0][1]} …) for good?", abort=True, err=True)
    for scope, target_id in back:
        receipt = _erase_if_there(storage, Post(settings), scope, target_id)
        if receipt:
            out.print(f"{scope} {target_id}: receipt {receipt.id}")


def _erase_if_there(storage: Storage, post: Post, scope: str, target_id: str) -> Receipt | None:
    """None if it went with its account or subject a moment ago."""
    from storage import erasure

    try:
        return erasure.erase(storage, post, scope, target_id)
    except UserError as error:
        if error.status != 404:
            raise
        return None


@plainly
def keys() -> None:
    """Print the public key that receipts are checked with. It changes with LIKENESS_SECRET_KEY: publish it, and keep old ones."""
    from storage import receipts

    key = receipts.public_key(settings_with())
    out.print(f"receipts  ed25519  {key}  sha256:{sha256(key.encode()).hexdigest()[:16]}", soft_wrap=True)


def account_of(settings: Settings, email: str, known: bool = True) -> str:
    """The id behind an address; if nobody has it, an error or, with ``known=False``, nothing."""
    from storage import accounts
    from storage.wiring import open_storage

    with open_storage(settings).db.reader() as session:
        found = accounts.id_of(session, email)
    if found is None and known:
        raise not_found("account")
    return found or ""


COMMANDS = (erase, scan, verify_receipt, keys, receipts, erase_again)
