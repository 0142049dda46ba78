"""Structured logs: key=value lines for people, JSON for machines; a job's id is bound once and is on every line after.

Accounts stay out of them: whatever a line says, ours or a library's, addresses, prompts, passwords, cookies and links that open something
are taken out before it is written. Ids stay: an operator needs them, and they mean nothing once the account is erased. Tracebacks show
lines of code and never the values of variables: also before :func:`set_up_logs`, and when a thread or the whole program dies.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import MutableMapping
from contextlib import suppress
from types import TracebackType
from typing import Any, TextIO

import structlog

bind = structlog.contextvars.bound_contextvars  # ``with bind(job=job.id): …``

HIDDEN = "[hidden]"
PRIVATE = frozenset({"email", "to", "address", "prompt", "negative_prompt", "caption", "description"})
PRIVATE |= frozenset({"token", "secret", "password", "cookie", "cookies", "authorization"})
_REPLACEMENTS = (
    (re.compile(r"(\b(?:set-)?cookie['\"]?\s*[:=,]\s*b?)('[^']*'|\"[^\"]*\"|[^\s'\"][^\n]*)", re.IGNORECASE), r"\1[hidden]"),
    (re.compile(r"(\blikeness_session['\"]?\s*[:=]\s*['\"]?)[^\s;,&'\"]+"), r"\1[hidden]"),
    (re.compile(r"(\bBearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE), r"\1[hidden]"),
    (re.compile(r"(\bDETAIL:\s+)[^\n]+"), r"\1[hidden]"),  # PostgreSQL quotes the row
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=]{8,}"), "whsec_[hidden]"),
    (re.compile(r"[A-Za-z0-9.!#$%&'*+=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"), "[address]"),
    (re.compile(r"([a-z][a-z0-9+.-]*://)[^\s/@'\"]+@"), r"\1[hidden]@"),  # user and password of a URL
    (re.compile(r"\b(token|signature|X-Amz-[A-Za-z-]+|AWSAccessKeyId)=[^\s&\"']+", re.IGNORECASE), r"\1=[hidden]"),
    (re.compile(r"(/v1/(?:objects|uploads)/)[\w.~-]+"), r"\1[hidden]"),
    (re.compile(r"\blk_[A-Za-z0-9_-]{8,}"), "lk_[hidden]"),
)
_PAST_US = ("TRANSFORMERS", "DIFFUSERS")  # once imported they write by themselves, and their warnings quote prompts
_SILENT = ("bitsandbytes",)  # warns at every import that it could be faster on a CPU, which we do not multiply with it
_QUIET = ("httpx", "httpx2", "httpcore", "httpcore2", "botocore", "boto3", "s3transfer", "urllib3", "PIL", "alembic")


def set_up_logs(level: str = "INFO", as_json: bool = False) -> None:
    """For the whole process, libraries included: one handler, to stderr, and one form of line."""
    ours: list[Any] = [structlog.contextvars.merge_contextvars, structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder(), *_PLAIN]
    drawn: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    last = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, drawn]
    handler = _Stderr()
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=last, foreign_pre_chain=[*ours, _named]))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.ERROR)
    for library in _PAST_US:
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    sys.excepthook, threading.excepthook = _program_died, _thread_died
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *ours, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


class _Stderr(logging.StreamHandler[TextIO]):
    """To whatever stderr is at that moment."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr

    def handleError(self, record: logging.LogRecord) -> None:
        """The standard one prints the line's arguments as they are."""
        with suppress(OSError, ValueError):  # ValueError: stderr is closed
            sys.stderr.write(f"a line of {record.name} could not be written: {type(sys.exception()).__name__}\n")


def _program_died(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    get_logger("core.logs").critical("the program ended by an error", exc_info=(kind, error, trace))


def _thread_died(died: threading.ExceptHookArgs) -> None:
    if died.exc_value is not None and not isinstance(died.exc_value, SystemExit):
        name = died.thread.name if died.thread else ""
        get_logger("core.logs").error("a thread ended by an error", thread=name, exc_info=died.exc_value)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name, room=name)
    return logger


def without_accounts(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor: hides private fields by name, and by pattern what stands in any text."""
    for name, value in event.items():
        if not name.startswith("_"):  # structlog's own
            event[name] = HIDDEN if name in PRIVATE and value else _plain(value)
    return event


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        for pattern, instead in _REPLACEMENTS:
            value = pattern.sub(instead, value)
        return value
    if isinstance(value, dict):
        return {name: HIDDEN if name in PRIVATE and one else _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, bool | int | float | None) else _plain(str(value))


def _named(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A library's logger is its room."""
    event["room"] = event["_record"].name
    event.pop("color_message", None)  # uvicorn's second copy, for terminals
    return event


_PLAIN: list[Any] = [structlog.processors.TimeStamper(fmt="iso", utc=True), structlog.processors.format_exc_info, without_accounts]


def _until_set_up() -> None:
    """structlog's own defaults write tracebacks with the values of all variables, to stdout."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            *_PLAIN,
            structlog.dev.ConsoleRenderer(colors=False),
        ],
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


_until_set_up()
