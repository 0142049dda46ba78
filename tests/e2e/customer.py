"""What a customer does in the browser, step by step. Selectors are what a person reads: labels, roles, words."""

from __future__ import annotations

import re
import time
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Service

TRAINING_WITHIN_MS = 480_000
PORTRAITS_WITHIN_MS = 180_000


def sign_in(page: Any, service: Service, email: str) -> None:
    page.goto(service.url)
    page.get_by_label("Your e-mail address").fill(email)
    page.get_by_role("button", name="Send me the link").click()
    page.get_by_role("heading", name="Check your mail").wait_for()
    page.goto(link_in_mail(service, email, r"/sign-in\?token=\S+"))
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Add a person or pet").wait_for()


def link_in_mail(service: Service, email: str, pattern: str, within_s: float = 30) -> str:
    """The address in the newest mail to ``email`` that matches."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        for mail in sorted(service.outbox.rglob("*.eml"), key=lambda path: path.stat().st_mtime, reverse=True):
            message = message_from_bytes(mail.read_bytes(), policy=policy.default)
            body = message.get_body(("plain",))
            found = re.search(re.escape(service.url) + pattern, body.get_content() if body else "")
            if message["To"] == email and found:
                return found.group()
        time.sleep(0.3)
    raise AssertionError(f"no mail to {email} with a link like {pattern}")


def add_subject(page: Any, name: str, kind: str, class_word: str = "") -> None:
    page.get_by_role("link", name="Add a person or pet").click()
    page.get_by_label("Name").fill(name)
    page.get_by_role("radio", name=kind).check(force=True)
    page.get_by_label("In one or two words").fill(class_word)
    for statement in page.get_by_role("checkbox").all():  # of a person there are two
        statement.check()
    page.get_by_role("button", name="On to the photos").click()
    page.get_by_role("heading", name="Drop photos here").wait_for()


def choose_photos(page: Any, files: list[Path]) -> None:
    page.locator("#files").set_input_files([str(file) for file in files])


def wait_for_count(page: Any, usable: int, within_s: float = 60) -> None:
    heading = page.get_by_role("heading", name=re.compile(rf"^{usable} of "))
    try:
        heading.wait_for(timeout=within_s * 1000)
    except Exception as error:
        raise AssertionError(f"not {usable} usable photos within {within_s:.0f} s; the page says:\n{page.inner_text('main')}") from error


def train_and_watch(page: Any, name: str) -> None:
    page.get_by_role("button", name="Start the training").click()
    page.get_by_role("heading", name=f"Learning {name}").wait_for(timeout=60_000)
    page.locator("#step").filter(has_text=re.compile(r"^\d+ / \d+$")).wait_for(timeout=TRAINING_WITHIN_MS)
    page.get_by_role("heading", name=f"{name} is ready").wait_for(timeout=TRAINING_WITHIN_MS)
    page.get_by_role("link", name="Choose a style").click()


def make_portraits(page: Any, style: str, count: int) -> Any:
    """The pictures, once they are there."""
    page.get_by_role("radio", name=re.compile(f"^{style}")).check(force=True)
    page.get_by_label("How many").select_option(str(count))
    page.get_by_role("button", name="Make portraits").click()
    pictures = page.locator(".portrait").first.locator("figure.print img")
    pictures.nth(count - 1).wait_for(timeout=PORTRAITS_WITHIN_MS)
    return pictures


def erase_account(page: Any) -> str:
    """The receipt's id."""
    page.get_by_role("link", name="Account").click()
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Erase my account").click()
    page.get_by_role("heading", name="Everything is erased").wait_for(timeout=60_000)
    return str(page.url.rpartition("/")[2])
