"""What every command does alike: settings read once, mistakes said in one line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console

from core.errors import ServiceDown, UserError
from core.logs import set_up_logs
from core.settings import Settings

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def plainly(command: Callable[..., Any]) -> Callable[..., Any]:
    """A person's mistake or a dead server is one line on stderr and exit code 1, not a traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (UserError, ServiceDown) as error:
            err.print(f"[bold red]{error}[/]")
            raise typer.Exit(1) from error

    return wrapped


def settings_with(**overrides: Any) -> Settings:
    settings = Settings(**{k: v for k, v in overrides.items() if v is not None})
    set_up_logs(settings.log_level, settings.log_json)
    return settings
