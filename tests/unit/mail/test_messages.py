from __future__ import annotations

from email import message_from_bytes, policy
from typing import Any

import jinja2
import pytest

from mail.messages import message_id, names, render

CONTEXTS: dict[str, dict[str, Any]] = {
    "test_message": {},
    "sign_in": {"path": "/sign-in?token=abc_-123", "minutes": 15},
    "training_done": {"subject_id": "sub_1", "subject_name": "Miso"},
    "training_failed": {"subject_id": "sub_1", "subject_name": "Miso", "training_id": "trn_1", "reason": "Only 4 photos show the cat."},
    "account_erased": {"receipt_id": "rct_1"},
    "photos_expiring": {"subject_id": "sub_1", "subject_name": "Miso", "date": "1 May 2027"},
    "photos_erased": {"subject_id": "sub_1", "subject_name": "Miso", "count": 12, "receipt_id": "rct_1"},
    "portraits_expiring": {"count": 30, "made_until": "1 April 2027", "date": "1 May 2027"},
    "portraits_erased": {"count": 30, "receipt_id": "rct_1"},
    "account_expiring": {"last_used": "1 April 2026", "date": "1 May 2027"},
}


def mail(template: str, **changes: Any) -> Any:
    context = CONTEXTS[template] | changes
    sender = "Likeness <likeness@example.com>"
    made = render(template, context, to="ada@example.com", sender=sender, site_url="https://likeness.example", dedupe_key=f"{template}:1")
    return message_from_bytes(made.as_bytes(), policy=policy.default)  # as the receiver reads it


def text(message: Any, kind: str) -> str:
    part = message.get_body(preferencelist=(kind,))
    assert part is not None
    return part.get_content()


def test_every_message_is_tested_here() -> None:
    assert set(names()) == set(CONTEXTS)


@pytest.mark.parametrize("template", sorted(CONTEXTS))
def test_each_message_is_whole(template: str) -> None:
    message = mail(template)
    assert message["To"] == "ada@example.com"
    assert message["From"].addresses[0].addr_spec == "likeness@example.com"
    assert 5 < len(message["Subject"]) < 80
    for kind in ("plain", "html"):
        assert "https://likeness.example/" in text(message, kind)
        assert "{{" not in text(message, kind)


def test_the_sign_in_link_is_whole_in_both_bodies() -> None:
    message = mail("sign_in")
    for kind in ("plain", "html"):
        assert "https://likeness.example/sign-in?token=abc_-123" in text(message, kind)
        assert "15 minutes" in text(message, kind)
        assert "did not ask" in text(message, kind)


def test_a_failure_says_why_and_what_to_do() -> None:
    for kind in ("plain", "html"):
        body = text(mail("training_failed"), kind)
        assert "Only 4 photos show the cat." in body
        assert "What to do" in body


def test_names_cannot_bring_html_or_headers_along() -> None:
    message = mail("training_done", subject_name="<script>x</script>\r\nBcc: eve@example.com")
    assert "<script>" not in text(message, "html")
    assert "<script>" in text(message, "plain")
    assert message["Bcc"] is None


@pytest.mark.parametrize("to", ["ada@example.com\nBcc: eve@example.com", "", "nobody"])
def test_an_address_that_is_none(to: str) -> None:
    with pytest.raises(ValueError):
        render("sign_in", CONTEXTS["sign_in"], to=to, sender="a@b.c", site_url="", dedupe_key="k")


def test_a_missing_word_is_an_error_not_a_gap() -> None:
    with pytest.raises(jinja2.UndefinedError):
        render("sign_in", {"minutes": 15}, to="a@b.c", sender="a@b.c", site_url="", dedupe_key="k")
    with pytest.raises(jinja2.TemplateNotFound):
        render("no_such", {}, to="a@b.c", sender="a@b.c", site_url="", dedupe_key="k")


def test_the_message_id_is_the_events_own() -> None:
    assert mail("sign_in")["Message-ID"] == mail("sign_in")["Message-ID"] == message_id("sign_in:1", "Likeness <likeness@example.com>")
    assert message_id("a", "x@y.z") != message_id("b", "x@y.z")
    assert message_id("a", "x@y.z").endswith("@y.z>")
