"""Structured logs: key=value lines for people, JSON for machines; a job's id is bound once and is on every line after."""

from __future__ import annotations

import logging

import structlog

bind = structlog.contextvars.bound_contextvars  # ``with bind(job=job.id): …``


def set_up_logs(level: str = "INFO", as_json: bool = False) -> None:
    logging.basicConfig(level=level, format="%(message)s", force=True)
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(),
    )


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    return structlog.get_logger(room=name)
