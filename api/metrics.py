"""Figures in Prometheus' words: on the API behind a token, or on a port of their own. Any one process answers for the whole service."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from core.errors import ServiceDown
from core.settings import Settings
from storage import figures
from storage.figures import Figure
from storage.wiring import Storage

PREFIX = "likeness_"
_FAMILIES: dict[str, Callable[[str, str], Metric]] = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}


class FiguresCollector(Collector):
    """Reads the database at each scrape. While it is down, ``likeness_database_up`` is 0 and the rest is absent."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def describe(self) -> list[Metric]:
        return []  # else the registry would ask the database for names at start

    def collect(self) -> Iterator[Metric]:
        yield _family(Figure("build_info", "Version of this process.", "gauge", [({"version": version("likeness")}, 1)]))
        try:
            found = figures.read(self._storage)
        except ServiceDown:
            found = []
        yield _family(Figure("database_up", "Whether the figures could be read.", "gauge", [({}, float(bool(found)))]))
        yield from map(_family, found)


def registry_of(storage: Storage) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(FiguresCollector(storage))
    return registry


def allowed(settings: Settings, authorization: str) -> bool:
    """Whether a request with this ``Authorization`` header may read them. Without a token set, nobody may."""
    token = settings.metrics_token.get_secret_value()
    return bool(token) and hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode())


@contextmanager
def own_port(settings: Settings, storage: Storage) -> Iterator[None]:
    """Serves them on ``metrics_host:metrics_port`` to whoever reaches it, if a port is set."""
    if not settings.metrics_port:
        yield
        return
    server, thread = start_http_server(settings.metrics_port, settings.metrics_host, registry_of(storage))
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _family(figure: Figure) -> Metric:
    family = _FAMILIES[figure.kind](PREFIX + figure.name, figure.help)
    for labels, value in figure.samples:
        suffix = "_total" if figure.kind == "counter" else ""
        family.add_sample(f"{PREFIX}{figure.name}{suffix}", dict(labels), value)
    return family
