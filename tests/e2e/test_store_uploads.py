"""Photos from a real browser straight to an S3 store that stands under an address of its own: content policy, CORS, POST and PUT."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from tests.e2e import customer
from tests.e2e.conftest import ROOT, Service, _environment, _free_port, _process, _wait_until_ready
from tests.unit.metrics.pictures import blocks, encoded
from tests.unit.storage.s3_proxy import SECRET, Habits, store_with

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@contextmanager
def site_on(store: str, var: Path) -> Iterator[Service]:
    """API and scheduler on that store, made ready by command."""
    site = f"http://127.0.0.1:{_free_port()}"
    own = {
        "LIKENESS_STORE_URL": f"s3://{var.name}?endpoint_url={store}&region=us-east-1&addressing=path",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    environment = _environment(var, site) | own
    subprocess.run([sys.executable, "-m", "likeness.cli", "prepare"], env=environment, cwd=ROOT, check=True)
    with ExitStack() as running:
        running.enter_context(_process(environment, "api", "--port", site.rpartition(":")[2]))
        running.enter_context(_process(environment, "scheduler"))
        service = Service(site, var)
        _wait_until_ready(service)
        yield service


@pytest.mark.parametrize(("refusal", "method"), [(0, "POST"), (501, "PUT")])
def test_photos_go_straight_to_the_store(moto: str, browser: Any, tmp_path: Path, refusal: int, method: str) -> None:
    habits = Habits(refuses_post=refusal, guards_origins=True)
    var = tmp_path / f"photos-by-{method.lower()}"
    var.mkdir()
    photos = [tmp_path / f"photo-{n}.jpg" for n in range(3)]
    for n, path in enumerate(photos):
        path.write_bytes(encoded(blocks(n)))
    with store_with(habits, moto) as store, site_on(store, var) as service:
        page = browser.new_context().new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        customer.sign_in(page, service, "mia@example.com")
        customer.add_subject(page, "Minka", "A cat", "cat")
        customer.choose_photos(page, photos)
        customer.wait_for_count(page, 3)
        assert page.locator(".photo img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        assert complaints == []
    path = f"/{var.name}" if method == "POST" else f"/{var.name}/accounts/"
    assert sum(seen.startswith(f"{method} {path}") and "incoming" in seen for seen in habits.seen) >= (3 if method == "PUT" else 0)
    assert any(seen.startswith("OPTIONS") for seen in habits.seen) == (method == "PUT"), "a form needs no preflight"
