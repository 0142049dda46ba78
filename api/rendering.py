"""Pages from templates: autoescaped, with the few helpers that they need."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

HERE = Path(__file__).parent
STATIC = HERE / "static"


def render(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """A page. ``account`` is who is signed in, or None; pages that know better pass it."""
    context.setdefault("account", getattr(request.state, "account", None))
    site = request.app.state.site
    page = environment().get_template(template).render(site=site, path=request.url.path, **context)
    return HTMLResponse(page, status, headers={"Cache-Control": "no-store"})


@cache
def environment() -> Environment:
    made = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=select_autoescape(), undefined=StrictUndefined)
    made.trim_blocks = made.lstrip_blocks = True
    made.filters |= {"day": day, "duration": duration, "size": size, "percent": percent}
    made.globals |= {"static": static, "style_sample": style_sample}
    return made


@cache
def static(name: str) -> str:
    """The file's address with its digest, so that it can be cached for ever and still change."""
    return f"/static/{name}?v={sha256((STATIC / name).read_bytes()).hexdigest()[:10]}"


def style_sample(name: str) -> str | None:
    """The address of a picture in that style; None for a style that an operator added without one."""
    file = f"style-{name}.webp"
    return static(file) if (STATIC / file).exists() else None


def day(moment: datetime) -> str:
    return f"{moment.day} {moment:%B %Y}"


def duration(seconds: float) -> str:
    """«about 2 minutes», as one says it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds" if seconds >= 1.5 else "a second"
    if seconds < 5400:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"


def size(count: int) -> str:
    return f"{count / 2**20:.1f}".removesuffix(".0") + " MB" if count >= 2**20 else f"{max(1, count // 1024)} KB"


def percent(share: float) -> str:
    return f"{round(100 * max(0.0, share))} %"
