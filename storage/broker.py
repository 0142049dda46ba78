"""Messages. Celery carries wake-ups that hold a job's id; losing one loses nothing."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from kombu import Queue
from kombu.exceptions import ChannelError
from kombu.exceptions import OperationalError as KombuError

from core import queues
from core.errors import ServiceDown
from core.settings import Settings
from core.words import JobKind
from storage.redis_child import EmbeddedRedis, resolve_broker_url, start_embedded_redis

__all__ = ["EmbeddedRedis", "celery_app", "publish", "resolve_broker_url", "start_embedded_redis", "waiting"]

VISIBILITY_S = 6 * 3600  # Redis redelivers what is unacknowledged for so long; the second copy finds the job claimed and steps back
PUBLISH_TIMEOUT_S = 0.5  # for each answer of the broker
HELD_UP_S = 2.0  # by one that stops answering, wherever in the exchange: that answer, and two that would close the connection
AMQP = ("amqp", "amqps", "pyamqp")
RABBITMQ_PATIENCE = {"x-consumer-timeout": VISIBILITY_S * 1000}  # else it takes back after half an hour; read since 3.12


def celery_app(settings: Settings, name: str) -> Celery:
    """A worker's app. Tasks are named in :mod:`core.queues` and take one argument, the job's id."""
    app = Celery(name, broker=resolve_broker_url(settings), set_as_current=False)
    app.conf.update(_common(), broker_transport_options=_redis(socket_timeout=10.0, socket_connect_timeout=5.0))
    return app


def publish(settings: Settings, job_kind: JobKind, job_id: str) -> None:
    """Wake a worker for the job. :class:`core.errors.ServiceDown`, within ``HELD_UP_S``, if the broker does not take it."""
    send(settings, queues.MESSAGE_OF[job_kind], job_id)


def send(settings: Settings, message: str, *args: Any) -> None:
    app = _publisher(resolve_broker_url(settings))
    try:
        app.send_task(message, args=args, queue=queues.QUEUE_OF[message], retry=False)
    except (KombuError, OSError, *app.connection_for_write().connection_errors) as error:
        raise ServiceDown(f"the broker does not answer: {error}") from error


def waiting(settings: Settings, job_kind: JobKind) -> int:
    """Messages of a kind that no worker has fetched. :class:`core.errors.ServiceDown` if the broker does not say."""
    queue = queues.QUEUE_OF[queues.MESSAGE_OF[job_kind]]
    connection = _publisher(resolve_broker_url(settings)).connection_for_write()
    try:
        with connection:
            return int(connection.channel().queue_declare(queue, passive=True).message_count)
    except ChannelError:  # no such queue: nothing was ever sent, or the broker lost it
        return 0
    except (*connection.connection_errors, *connection.channel_errors, KombuError, OSError) as error:
        raise ServiceDown(f"the broker does not answer: {error}") from error


@lru_cache(maxsize=8)
def _publisher(url: str) -> Celery:
    app = Celery("publisher", broker=url, set_as_current=False)
    options = _redis(socket_timeout=PUBLISH_TIMEOUT_S, socket_connect_timeout=PUBLISH_TIMEOUT_S, max_retries=0)
    if urlsplit(url).scheme in AMQP:  # a write to a connection whose server has died succeeds: only a confirmed message was taken
        options = {"confirm_publish": True, "read_timeout": PUBLISH_TIMEOUT_S, "write_timeout": PUBLISH_TIMEOUT_S}
    app.conf.update(_common(), broker_transport_options=options, broker_connection_timeout=PUBLISH_TIMEOUT_S)
    return app


def _common() -> dict[str, Any]:
    return {
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_backend": None,
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_reject_on_worker_lost": False,  # it would loop on an out-of-memory kill; the lease brings the job back, and counts
        "worker_prefetch_multiplier": 1,
        "task_queues": [Queue(name, queue_arguments=RABBITMQ_PATIENCE) for name in queues.ALL],
        "task_default_queue": queues.CPU,
        "task_create_missing_queues": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # the lease decides, not the connection
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,  # our logs go to stdout, which Celery would swallow in its children
    }


def _redis(**extra: Any) -> dict[str, Any]:
    return {"visibility_timeout": VISIBILITY_S, "socket_keepalive": True, **extra}
