"""What every request may use; made once by the app factory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from api.events import Broadcaster
from api.site import Site
from api.telling import Teller
from core.settings import Settings
from metrics.photo_pool import PhotoPool
from storage.mails import Post
from storage.wiring import Storage


@dataclass(frozen=True)
class State:
    settings: Settings
    storage: Storage
    photo_pool: PhotoPool
    broadcaster: Broadcaster
    site: Site
    post: Post
    teller: Teller
    photo_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(4))  # a crowd of uploads leaves threads to the others


def state_of(request: Request) -> State:
    found = request.app.state.likeness
    assert isinstance(found, State)
    return found


Shared = Annotated[State, Depends(state_of)]
