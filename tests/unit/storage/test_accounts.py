from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import select

from core.errors import UserError
from storage import accounts
from storage.tables import Account, ApiKey, Mail, SignInToken, WebSession, now
from storage.wiring import Storage


def ask(storage: Storage, email: str = "Ada@Example.com") -> str:
    with storage.db.session() as session:
        return accounts.request_sign_in(session, email)


def test_a_link_signs_in_once_and_makes_the_account(storage: Storage) -> None:
    token = ask(storage)
    with storage.db.session() as session:
        assert accounts.sign_in_is_open(session, token)
        account, session_token = accounts.consume_sign_in(session, token)
    assert account.email == "ada@example.com"
    with storage.db.session() as session:
        found = accounts.account_of_session(session, session_token)
        assert found is not None and found.id == account.id
        assert not accounts.sign_in_is_open(session, token)
        with pytest.raises(UserError, match="used or has expired"):
            accounts.consume_sign_in(session, token)


def test_the_second_sign_in_finds_the_same_account(storage: Storage) -> None:
    ids = set()
    for email in ("ada@example.com", " ADA@example.com "):
        token = ask(storage, email)
        with storage.db.session() as session:
            ids.add(accounts.consume_sign_in(session, token)[0].id)
    assert len(ids) == 1


def test_of_two_who_press_the_button_one_signs_in(storage: Storage) -> None:
    token = ask(storage)

    def press(_: int) -> bool:
        try:
            with storage.db.session() as session:
                accounts.consume_sign_in(session, token)
        except UserError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(press, range(4))) == [False, False, False, True]


def test_a_link_expires(storage: Storage) -> None:
    with storage.db.session() as session:
        token = accounts.request_sign_in(session, "a@example.com", ttl_s=-1)
    with storage.db.session() as session, pytest.raises(UserError):
        accounts.consume_sign_in(session, token)


def test_the_mail_carries_the_link_and_the_rows_only_hashes(storage: Storage) -> None:
    token = ask(storage)
    with storage.db.session() as session:
        mail = session.scalars(select(Mail)).one()
        assert (mail.template, mail.to) == ("sign_in", "ada@example.com")
        assert mail.context == {"path": f"/sign-in?token={token}", "minutes": 15}
        assert session.scalars(select(SignInToken)).one().token_hash != token
        _, session_token = accounts.consume_sign_in(session, token)
        key_row, key = accounts.create_api_key(session, session.scalars(select(Account.id)).one(), "laptop")
        assert session_token not in session.scalars(select(WebSession.token_hash)).all()
        assert key not in (key_row.key_hash, key_row.hint)
        assert key.startswith("lk_") and key.startswith(key_row.hint)


def test_links_are_limited(storage: Storage) -> None:
    for _ in range(accounts.LINKS_PER_HOUR):
        ask(storage)
    with pytest.raises(UserError) as refusal:
        ask(storage)
    assert refusal.value.status == 429
    ask(storage, "someone.else@example.com")


@pytest.mark.parametrize("email", ["", "ada", "a@b@c", "a b@c", "a@b\nBcc: x@y", "a@", "@b", "a@b,c@d"])
def test_not_an_address(storage: Storage, email: str) -> None:
    with pytest.raises(UserError, match="not an e-mail address"):
        ask(storage, email)


def test_api_keys_and_sessions_end(storage: Storage) -> None:
    token = ask(storage)
    with storage.db.session() as session:
        account, session_token = accounts.consume_sign_in(session, token)
        row, key = accounts.create_api_key(session, account.id, "laptop")
        assert accounts.account_of_api_key(session, key) is account
        assert accounts.account_of_api_key(session, key + "x") is None
        accounts.touch_api_key(session, key)
        assert session.get_one(ApiKey, row.id, populate_existing=True).last_used_at is not None
        with pytest.raises(UserError):
            accounts.revoke_api_key(session, "acc_other", row.id)
        accounts.revoke_api_key(session, account.id, row.id)
        assert accounts.account_of_api_key(session, key) is None
        accounts.sign_out(session, session_token)
        assert accounts.account_of_session(session, session_token) is None


def test_an_old_session_and_a_going_account_are_strangers(storage: Storage) -> None:
    token = ask(storage)
    with storage.db.session() as session:
        account, session_token = accounts.consume_sign_in(session, token)
        _, key = accounts.create_api_key(session, account.id, "laptop")
        session.scalars(select(WebSession)).one().expires_at = now() - timedelta(seconds=1)
        session.flush()
        assert accounts.account_of_session(session, session_token) is None
        account.gone = True
        session.flush()
        assert accounts.account_of_api_key(session, key) is None
