"""What a process writes, as a process: logging is set up once and for all of it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from core.logs import without_accounts

SAY = """
import logging, sys
from core.logs import bind, get_logger, set_up_logs
set_up_logs(sys.argv[1], sys.argv[2] == "json")
log = get_logger("storage.jobs")
with bind(job="job_1", kind="training"):
    log.info("job ended", outcome="failed", error="550 ada@example.com unknown")
    log.debug("step")
    logging.getLogger("celery.worker").warning("lost %s", "redis://:hunter2@broker:6379/0")
    logging.getLogger("botocore").info("chatter")
    try:
        raise ValueError("no mailbox ada@example.com")
    except ValueError:
        log.exception("mail cannot be sent")
        logging.getLogger("uvicorn").exception("it fell")
log.info("portrait", prompt="zokzex cat as Ada", to="ada@example.com")
"""


FALLS = """
import logging, sys, threading
from core.logs import get_logger, set_up_logs
if sys.argv[1] != "not set up":
    set_up_logs("DEBUG", sys.argv[1] == "json")

def falls(cookie):
    held, mailbox, header = "hunter2" + cookie, "ada@example.com", {"cookie": "likeness_session=s3cr3t-cookie; theme=dark"}
    raise ValueError(f"no place for {mailbox}, who sent {header} and Cookie: likeness_session=s3cr3t-cookie")

try:
    falls("s3cr3t-cookie")
except ValueError as error:
    get_logger("api").exception("caught", cookies={"likeness_session": "s3cr3t-cookie"})
    get_logger("api").error("caught", exc_info=error)
    if sys.argv[1] != "not set up":
        logging.getLogger("uvicorn").exception("caught")
        logging.getLogger("uvicorn").info("%d", "ada@example.com")
        thread = threading.Thread(target=falls, args=("s3cr3t-cookie",), name="judge")
        thread.start()
        thread.join()
if sys.argv[1] != "not set up":
    falls("s3cr3t-cookie")
"""


def said(level: str, form: str) -> str:
    done = subprocess.run([sys.executable, "-c", SAY, level, form], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "", "stdout belongs to what a command answers"
    return done.stderr


def test_every_line_is_json_with_its_job_ours_and_the_libraries() -> None:
    lines = [json.loads(line) for line in said("INFO", "json").splitlines()]
    assert [line["event"] for line in lines] == [
        "job ended",
        "lost redis://[hidden]@broker:6379/0",
        "mail cannot be sent",
        "it fell",
        "portrait",
    ]
    assert [line.get("job") for line in lines] == ["job_1"] * 4 + [None]
    assert [line["room"] for line in lines] == ["storage.jobs", "celery.worker", "storage.jobs", "uvicorn", "storage.jobs"]
    assert [line["level"] for line in lines] == ["info", "warning", "error", "error", "info"]
    assert all("T" in line["timestamp"] for line in lines)
    assert "ValueError" in lines[2]["exception"] and "ValueError" in lines[3]["exception"]


@pytest.mark.parametrize("form", ["json", "text"])
def test_nobody_is_named(form: str) -> None:
    text = said("DEBUG", form)
    assert "mail cannot be sent" in text and "step" in text
    for private in ("example.com", "hunter2", "Ada", "zokzex"):
        assert private not in text


@pytest.mark.parametrize("form", ["json", "text", "not set up"])
def test_an_error_shows_where_it_fell_and_no_value(form: str) -> None:
    done = subprocess.run([sys.executable, "-c", FALLS, form], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "" and done.returncode == (0 if form == "not set up" else 1)
    assert done.stderr.count("no place for [address]") == (2 if form == "not set up" else 5)
    assert "Traceback" in done.stderr and "in falls" in done.stderr
    for private in ("s3cr3t", "example.com", "hunter2", "theme"):
        assert private not in done.stderr
    if form == "json":
        lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        assert [line["event"] for line in lines] == [*["caught"] * 3, "a thread ended by an error", "the program ended by an error"]
        assert lines[0]["cookies"] == "[hidden]" and lines[3]["thread"] == "judge"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("asked with Authorization: Bearer lk_abcdefgh12345", "asked with Authorization: Bearer [hidden]"),
        ("[(b'host', b'x'), (b'cookie', b'a=b; c=d')]", "[(b'host', b'x'), (b'cookie', b[hidden])]"),
        ("{'likeness_session': 'abc-def'}", "{'likeness_session': '[hidden]'}"),
        ("signed with whsec_abcdefghijkl=", "signed with whsec_[hidden]"),
        ("null value\nDETAIL:  Failing row contains (por_1, a cat in bed).", "null value\nDETAIL:  [hidden]"),
        ("mail to Ada.L+x@mail.example.co.uk failed", "mail to [address] failed"),
        ("postgresql+psycopg://likeness:p4ss@db/likeness", "postgresql+psycopg://[hidden]@db/likeness"),
        ('GET /sign-in?token=abc.def HTTP/1.1" 200', 'GET /sign-in?token=[hidden] HTTP/1.1" 200'),
        ("GET /v1/objects/eyJvcCI6.sig-_x 200", "GET /v1/objects/[hidden] 200"),
        ("https://s3/x?X-Amz-Signature=00ff&X-Amz-Date=1", "https://s3/x?X-Amz-Signature=[hidden]&X-Amz-Date=[hidden]"),
        ("key lk_abcdefgh12345 refused", "key lk_[hidden] refused"),
        (
            "train-12@gpu-host took job_8f3k; 5 images at /v1/portraits/por_1",
            "train-12@gpu-host took job_8f3k; 5 images at /v1/portraits/por_1",
        ),
    ],
)
def test_what_opens_something_is_hidden_and_what_helps_stays(text: str, plain: str) -> None:
    assert _event(event=text)["event"] == plain


def test_private_fields_are_hidden_at_any_depth_and_numbers_stay_numbers() -> None:
    event = _event(
        event="x", prompt="a face", params={"prompt": "a face", "seed": 7, "to": None}, errors=[ValueError("a@b.example")], steps=3
    )
    assert event["prompt"] == "[hidden]"
    assert event["params"] == {"prompt": "[hidden]", "seed": 7, "to": None}
    assert (event["errors"], event["steps"]) == (["[address]"], 3)


def _event(**values: Any) -> dict[str, Any]:
    return dict(without_accounts(None, "info", values))


def test_libraries_that_write_by_themselves_are_quiet_from_their_import_on() -> None:
    code = "from core.logs import set_up_logs; set_up_logs(); import transformers, diffusers; from transformers import CLIPImageProcessor"
    for library in ("transformers", "diffusers"):
        code += f"; {library}.utils.logging.get_logger('{library}').warning('zokzex')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "[transformers]" not in done.stderr
    assert "zokzex" not in done.stderr
