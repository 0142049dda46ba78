"""Who the customer is: sign-in links, browser sessions, API keys. Only hashes of secrets are stored."""

from __future__ import annotations

import re
import secrets
from datetime import timedelta
from hashlib import sha256

from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.orm import Session

from core.errors import UserError, not_found
from core.words import new_id
from storage import mails
from storage.locks import hold_account_of_address
from storage.tables import Account, ApiKey, SignInToken, WebSession, now

_EMAIL = re.compile(r"[^@\s,;<>\"]{1,64}@[^@\s,;<>\"]{1,255}")
LINKS_PER_HOUR = 5
KEY_PREFIX = "lk_"


def request_sign_in(session: Session, email: str, ttl_s: int = 900) -> str:
    """A single-use token for a sign-in link, and the mail that carries it. The same for a known and an unknown address.

    :class:`core.errors.UserError`: ``email/invalid`` (422), or ``sign-in/too-many`` (429) after five links in an hour.
    """
    email = normal_email(email)
    hour_ago = now() - timedelta(hours=1)
    recent = session.scalar(select(func.count()).where(SignInToken.email == email, SignInToken.created_at > hour_ago))
    if (recent or 0) >= LINKS_PER_HOUR:
        detail = "Use the newest link in your mail, or wait an hour."
        raise UserError("sign-in/too-many", "Too many sign-in links were asked for", detail, status=429)
    token = secrets.token_urlsafe(32)
    session.add(SignInToken(token_hash=hashed(token), email=email, created_at=now(), expires_at=now() + timedelta(seconds=ttl_s)))
    known = session.scalar(select(Account.id).where(Account.email == email))
    context = {"path": f"/sign-in?token={token}", "minutes": max(1, ttl_s // 60)}
    mails.enqueue(session, email, "sign_in", context, f"sign_in:{hashed(token)}", known)
    return token


def sign_in_is_open(session: Session, token: str) -> bool:
    """Whether a link still works: for the page that only shows the button, since mail scanners open links."""
    row = session.get(SignInToken, hashed(token))
    return row is not None and row.used_at is None and row.expires_at > now()


def consume_sign_in(session: Session, token: str, session_ttl_s: int = 30 * 86400) -> tuple[Account, str]:
    """Use the link once: the account (made at the first sign-in) and a new browser session's token. ``sign-in/expired`` (400) otherwise."""
    open_link = (SignInToken.token_hash == hashed(token)) & SignInToken.used_at.is_(None) & (SignInToken.expires_at > now())
    hold_account_of_address(session, session.scalar(select(SignInToken.email).where(open_link)) or "")
    email = session.scalar(update(SignInToken).where(open_link).values(used_at=now()).returning(SignInToken.email))
    if email is None:
        raise UserError("sign-in/expired", "This sign-in link was used or has expired", "Ask for a new one.", status=400)
    account = _account_for(session, email)
    return account, start_session(session, account, session_ttl_s)


def start_session(session: Session, account: Account, ttl_s: int) -> str:
    token = secrets.token_urlsafe(32)
    session.add(WebSession(token_hash=hashed(token), account_id=account.id, created_at=now(), expires_at=now() + timedelta(seconds=ttl_s)))
    account.last_seen_at = now()
    session.flush()
    return token


def account_of_session(session: Session, token: str) -> Account | None:
    query = select(Account).join(WebSession).where(WebSession.token_hash == hashed(token), WebSession.expires_at > now(), ~Account.gone)
    return session.scalar(query)


def was_seen(session: Session, account_id: str) -> None:
    """In use: the retention of idle accounts counts from here."""
    session.execute(update(Account).where(Account.id == account_id).values(last_seen_at=now()))


def sign_out(session: Session, token: str) -> None:
    session.execute(delete(WebSession).where(WebSession.token_hash == hashed(token)))


def create_api_key(session: Session, account_id: str, name: str) -> tuple[ApiKey, str]:
    """The row, and the key itself, which is shown this once."""
    name = name.strip()
    if not 1 <= len(name) <= 80:
        raise UserError("api-key/name", "An API key needs a name", "Give 1 to 80 characters that tell where the key is used.")
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    row = ApiKey(id=new_id("key"), account_id=account_id, name=name, key_hash=hashed(key), hint=key[:8], created_at=now())
    session.add(row)
    session.flush()
    return row, key


def account_of_api_key(session: Session, key: str) -> Account | None:
    """A query only: callers that may write call :func:`touch_api_key`."""
    return session.scalar(select(Account).join(ApiKey).where(ApiKey.key_hash == hashed(key), ~Account.gone))


def touch_api_key(session: Session, key: str) -> None:
    session.execute(update(ApiKey).where(ApiKey.key_hash == hashed(key)).values(last_used_at=now()))


def api_keys(account_id: str) -> Select[ApiKey]:
    return select(ApiKey).where(ApiKey.account_id == account_id)


def revoke_api_key(session: Session, account_id: str, key_id: str) -> None:
    gone = session.scalar(delete(ApiKey).where(ApiKey.id == key_id, ApiKey.account_id == account_id).returning(ApiKey.id))
    if gone is None:
        raise not_found("API key")


def id_of(session: Session, email: str) -> str | None:
    """Of the account that has the address."""
    return session.scalar(select(Account.id).where(Account.email == normal_email(email)))


def normal_email(email: str) -> str:
    email = email.strip().lower()
    if not _EMAIL.fullmatch(email):
        raise UserError("email/invalid", "This is not an e-mail address", "Write it like name@example.com.")
    return email


def hashed(token: str) -> str:
    """Sha-256: enough for 256-bit random tokens."""
    return sha256(token.encode()).hexdigest()


def _account_for(session: Session, email: str) -> Account:
    account = session.scalar(select(Account).where(Account.email == email))
    if account is None:
        account = Account(id=new_id("acc"), email=email, created_at=now(), last_seen_at=now(), gone=False)
        session.add(account)
        session.flush()
    if account.gone:
        raise UserError("account/erasing", "This account is being erased", "Wait a minute, then sign in to begin anew.", status=409)
    return account
