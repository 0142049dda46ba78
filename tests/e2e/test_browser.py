"""A customer in a real browser, from the mail to the portraits and back to nothing."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from core.settings import Settings
from mail.post import Post
from storage.remains import scan
from storage.wiring import open_storage
from tests.e2e import customer
from tests.e2e.conftest import ROOT, Service
from tests.unit.metrics.pictures import blocks, encoded, png_bomb

pytestmark = pytest.mark.browser

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


def example_photos() -> list[Path]:
    sets = sorted(folder for folder in (ROOT / "examples" / "photos").glob("*") if len(list(folder.glob("*.jpg"))) >= 10)
    if not sets:
        pytest.skip("no example photos: examples/photos/<name>/*.jpg")
    return sorted(sets[0].glob("*.jpg"))[:12]


def new_page(browser: Any, viewport: dict[str, int]) -> Any:
    """A page whose script errors fail the test."""
    page = browser.new_context(viewport=viewport).new_page()
    page.on("pageerror", lambda error: pytest.fail(f"script error: {error}"))
    return page


@pytest.fixture
def good_photos(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / f"photo-{n}.jpg", encoded(blocks(n))) for n in range(10)]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.slow
def test_from_the_mail_to_portraits_and_back_to_nothing(service: Service, browser: Any) -> None:
    photos = example_photos()
    page = new_page(browser, DESKTOP)
    customer.sign_in(page, service, "mia@example.com")
    account_id = page.evaluate("fetch('/v1/account').then(answer => answer.json()).then(account => account.id)")
    customer.add_subject(page, "Minka", "A cat", "cat")
    customer.choose_photos(page, photos)
    customer.wait_for_count(page, len(photos))
    customer.train_and_watch(page, "Minka")
    assert customer.link_in_mail(service, "mia@example.com", r"/subjects/\S+").endswith(page.url.rpartition("/")[2])
    pictures = customer.make_portraits(page, "Oil painting", 2)
    assert pictures.evaluate_all("found => found.every(picture => picture.complete || picture.loading === 'lazy')")
    assert page.get_by_text(re.compile(r"^Likeness \d+ %$")).count() == 2
    receipt = customer.erase_account(page)
    assert urllib.request.urlopen(f"{service.url}/v1/receipts/{receipt}").status == 200
    assert customer.link_in_mail(service, "mia@example.com", r"/receipts/\S+").endswith(receipt)
    settings, deadline = Settings(_env_file=None, var_dir=service.var, public_url=service.url), time.monotonic() + 10
    farewell = ["sent mail to mia@example.com"]  # its row goes once it is sent; the folder outbox keeps a copy for an hour
    while (left := scan(open_storage(settings), account_id, "mia@example.com", Post(settings))) != farewell:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    assert not [path for path in service.var.rglob("*") if account_id in str(path)]


def test_each_photo_is_judged_as_it_arrives(pages: Service, browser: Any, good_photos: list[Path], tmp_path: Path) -> None:
    page = new_page(browser, DESKTOP)
    customer.sign_in(page, pages, "leo@example.com")
    customer.add_subject(page, "Tiger", "A cat")
    bad = {
        write(tmp_path / "diary.jpg", b"Dear diary, this is text."): "not a photo in a format that we read",
        write(tmp_path / "bomb.png", png_bomb()): "far too many pixels",
        write(tmp_path / "dance.webp", encoded(blocks(1), "WEBP", save_all=True, append_images=[blocks(2)])): "a moving picture",
        write(tmp_path / "cut.jpg", encoded(blocks(3))[:4000]): "damaged or incomplete",
        write(tmp_path / "huge.jpg", encoded(blocks(4)) + bytes(31 * 2**20)): "too large",
    }
    customer.choose_photos(page, [*good_photos[:9], *bad])
    customer.wait_for_count(page, 9)
    for path, words in bad.items():
        card = page.locator("#arriving .photo", has_text=path.name)
        card.get_by_text(re.compile(words)).wait_for()
    assert page.get_by_role("button", name="Start the training").is_disabled()
    customer.choose_photos(page, good_photos[9:])
    customer.wait_for_count(page, 10)
    assert page.get_by_role("button", name="Start the training").is_enabled()


def test_photos_chosen_before_the_script_is_there_are_not_lost(pages: Service, browser: Any, good_photos: list[Path]) -> None:
    page, held = new_page(browser, DESKTOP), []

    def hold(route: Any) -> None:
        held.append(route)

    customer.sign_in(page, pages, "quick@example.com")
    page.route(re.compile(r"/photos\.js"), hold)
    with page.expect_request(re.compile(r"/photos\.js")):
        customer.add_subject(page, "Quick", "A dog")
    customer.choose_photos(page, good_photos[:3])
    held[0].continue_()
    customer.wait_for_count(page, 3, within_s=20)


def test_a_server_that_is_down_for_a_moment_refuses_no_photo(pages: Service, browser: Any, good_photos: list[Path]) -> None:
    page, down = new_page(browser, DESKTOP), set()

    def down_at_first(route: Any) -> None:
        way = "store" if "/v1/uploads/" in route.request.url else route.request.url.rpartition("/")[2]
        if route.request.method != "POST" or way in down:
            route.continue_()
        else:
            down.add(way)
            route.fulfill(status=503, json={"title": "down"})

    customer.sign_in(page, pages, "calm@example.com")
    customer.add_subject(page, "Calm", "A dog")
    page.route(re.compile(r"/v1/(subjects/|uploads)"), down_at_first)
    customer.choose_photos(page, good_photos[:2])
    customer.wait_for_count(page, 2, within_s=30)
    assert down == {"uploads", "store", "photos"}


FIRST_SET_LATE = """const plain = fetch;
  window.fetch = async (url, ...rest) => {
    const answer = await plain(url, ...rest);
    const { dataset } = document.documentElement;
    if (!String(url).endsWith("/photos/set") || dataset.late) return answer;
    dataset.late = "held";
    await new Promise(done => setTimeout(done, 2500));
    setTimeout(() => { dataset.late = "given"; }, 200);
    return answer;
  };"""


def test_an_older_answer_that_comes_late_does_not_stay(pages: Service, browser: Any, good_photos: list[Path]) -> None:
    page = new_page(browser, DESKTOP)
    page.add_init_script(FIRST_SET_LATE)
    customer.sign_in(page, pages, "amy@example.com")
    customer.add_subject(page, "Amy", "A dog")
    customer.choose_photos(page, good_photos[:4])
    customer.wait_for_count(page, 4)
    page.locator("html[data-late=given]").wait_for()
    customer.wait_for_count(page, 4, within_s=3)


def test_a_removed_photo_leaves_a_receipt(pages: Service, browser: Any, good_photos: list[Path]) -> None:
    page = new_page(browser, DESKTOP)
    customer.sign_in(page, pages, "ida@example.com")
    customer.add_subject(page, "Ida", "A person")
    customer.choose_photos(page, good_photos[:3])
    customer.wait_for_count(page, 3)
    page.get_by_role("button", name="Remove photo-1.jpg").click()
    customer.wait_for_count(page, 2)
    assert re.search(r"receipt rct_\w+", page.locator("#said").inner_text())


def test_a_training_waits_and_is_canceled(pages: Service, browser: Any, good_photos: list[Path]) -> None:
    page = new_page(browser, DESKTOP)
    customer.sign_in(page, pages, "max@example.com")
    customer.add_subject(page, "Max", "A dog", "border collie")
    customer.choose_photos(page, good_photos)
    customer.wait_for_count(page, 10)
    page.get_by_role("button", name="Start the training").click()
    page.get_by_role("heading", name="Waiting for a worker").wait_for()
    page.get_by_role("button", name="Cancel the training").click()
    page.get_by_role("heading", name="Canceled").wait_for()


def test_the_keyboard_alone_is_enough_to_sign_in(pages: Service, browser: Any) -> None:
    page = new_page(browser, DESKTOP)
    page.goto(pages.url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    for _ in range(5):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "email":
            break
    page.keyboard.type("kim@example.com")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Check your mail").wait_for()


def test_pages_fit_a_phone_and_every_control_has_a_name(pages: Service, browser: Any, good_photos: list[Path]) -> None:
    page = new_page(browser, PHONE)
    customer.sign_in(page, pages, "zoe@example.com")
    customer.add_subject(page, "A name that is as long as a name may well be, and then some more", "A dog")
    customer.choose_photos(page, good_photos[:2])
    customer.wait_for_count(page, 2)
    for path in (page.url, pages.url, f"{pages.url}/subjects/new", f"{pages.url}/account"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
        assert page.evaluate(NAMELESS) == [], path


NAMELESS = """[...document.querySelectorAll('a, button, input:not([type=hidden]), select, textarea, progress')]
  .filter(e => !(e.textContent.trim() || e.labels?.length || e.getAttribute('aria-label'))).map(e => e.outerHTML)"""


def test_without_scripts_photos_are_sent_by_the_form(pages: Service, browser: Any, good_photos: list[Path]) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    customer.sign_in(page, pages, "ben@example.com")
    customer.add_subject(page, "Ben", "A person")
    customer.choose_photos(page, good_photos[:2])
    page.get_by_role("button", name="Upload").click()
    customer.wait_for_count(page, 2)
