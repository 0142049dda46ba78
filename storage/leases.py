"""A worker's hold on a job. Every write carries the fencing token, so a worker that lost its lease cannot write."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.errors import JobCanceled, LeaseLost, ServiceDown, WorkerStopping
from core.logs import get_logger
from core.words import JobKind, JobState
from storage import webhook_events, writing
from storage.locks import hold_account
from storage.tables import Account, Job, now

if TYPE_CHECKING:
    from storage.wiring import Storage

log = get_logger("storage.leases")

LOOK_EVERY_S = 1.0  # how often check() may ask the database
WRITE_EVERY_S = 0.5  # how often progress() may write; a new stage is written at once
FINISH_AGAIN_S = 0.5  # how long finish() waits for a database that does not answer before it asks again


class Lease:
    """Made by :func:`storage.jobs.run`. Objects are stored by :meth:`put`; rows, and the end of the job, in :meth:`finish`.

    ``fence`` is this hold's own number: a key that carries it is no other worker's, so nobody's late write replaces what another stored.
    ``stopping`` tells whether the process should end.
    """

    def __init__(self, storage: Storage, job: Job, stopping: Callable[[], bool] = lambda: False) -> None:
        self.job_id, self.kind, self.target_id, self.account_id = job.id, JobKind(job.kind), job.target_id, job.account_id
        self.attempt, self.fence = job.attempts, job.fence
        self._storage, self._stopping = storage, stopping
        self._progress: dict[str, Any] = {"kept": job.progress["kept"]} if "kept" in (job.progress or {}) else {}
        self._metrics: dict[str, Any] = dict(job.metrics or {})
        self._seconds: dict[str, float] = dict(self._metrics.get("seconds", {}))
        self._lock = threading.RLock()
        self._unwritten = False
        self._written_at = 0.0
        self._lost = self._canceled = self._ending = False
        self._renewed()

    def check(self) -> None:
        """Call at every step. Raises JobCanceled if the customer or an erasure wants a stop, LeaseLost if the job is not ours now,
        WorkerStopping if the process should end."""
        self._raise_if_over()
        if self._stopping():
            raise WorkerStopping
        if not self._ending and time.monotonic() - self._looked_at >= LOOK_EVERY_S:
            self._look()
            self._raise_if_over()

    def progress(self, **snapshot: Any) -> None:
        """Merge into the job's progress: ``stage, step, total, loss, eta_s, message`` … (JSON). Seldom costs a write; see WRITE_EVERY_S."""
        with self._lock:
            new_stage = snapshot.get("stage", self._progress.get("stage")) != self._progress.get("stage")
            self._progress |= snapshot
            self._unwritten = True
            if new_stage or time.monotonic() - self._written_at >= WRITE_EVERY_S:
                self._write({})
        self._raise_if_over()

    def kept(self, step: int) -> None:
        """What was done up to this step is stored, and whoever takes over goes on from there: the loss of this attempt does not count
        against ``max_attempts`` then. Written at once."""
        with self._lock:
            self._progress["kept"] = step
            self._unwritten = True
            self._write({})
        self._raise_if_over()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Names the stage and adds the seconds that it took to ``metrics["seconds"][name]``, over all attempts."""
        self.check()
        self.progress(stage=str(name), step=0, total=0, message="", eta_s=None)  # the stage before has no say in when this one ends
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[str(name)] = round(self._seconds.get(str(name), 0.0) + time.monotonic() - began, 3)

    def metrics(self, **values: Any) -> None:
        """Merged into the job's metrics when it ends."""
        self._metrics |= values

    def all_metrics(self) -> dict[str, Any]:
        return {**self._metrics, "seconds": dict(self._seconds)}

    def put(self, key: str, data: bytes | Path, content_type: str = "application/octet-stream") -> None:
        """Store an object of this job under a key that carries :attr:`fence`, if the job still stands.

        It may end meanwhile: then the object is taken back, and an erasure waits for that (:mod:`storage.writing`). What a worker that dies
        just there leaves behind, the scheduler sweeps (:mod:`storage.leftovers`, and :mod:`storage.erasure` for what was erased).
        """
        self._raise_if_over()
        try:
            with writing.announced(self._storage, [key], self._stands, self._ends_at - time.monotonic()):
                self._storage.objects.put(key, data, content_type)
                try:
                    self._look_and_raise()
                except (LeaseLost, JobCanceled):
                    self._storage.objects.erase([key])
                    raise
        except writing.OwnerGone:
            self._look_and_raise()
            raise LeaseLost from None

    def finish(self, write: Callable[[Session], None]) -> None:
        """``write`` the job's rows and set it succeeded, in one transaction; again for the time of a lease if the database is down."""
        give_up_at = time.monotonic() + self._storage.settings.lease_s
        while True:
            try:
                with self.succeed() as session:
                    write(session)
                return
            except ServiceDown as error:
                if time.monotonic() + FINISH_AGAIN_S > min(self._ends_at, give_up_at):
                    raise
                log.warning("end not written yet", job=self.job_id, error=str(error))
                time.sleep(FINISH_AGAIN_S)

    @contextmanager
    def succeed(self) -> Iterator[Session]:
        """One transaction for the job's rows, whose last act sets the job succeeded, if it is still ours and not canceled.

        Keep it to rows: store objects before. :class:`LeaseLost` or :class:`JobCanceled` roll all of it back.
        """
        self._raise_if_over()
        self._ending = True
        try:
            with self._lock, self._storage.db.session() as session:
                hold_account(session, self.account_id)
                yield session
                session.flush()
                self._finish(session)
        except IntegrityError:  # what its rows refer to was erased while they were written
            self._look_and_raise()
            raise
        finally:
            self._ending = False

    def beat(self) -> None:
        """Extend the lease and write progress that waits. Called by the heartbeat thread."""
        if not self._ending:
            with self._lock:
                self._write({"lease_until": now() + timedelta(seconds=self._storage.settings.lease_s)})

    @property
    def over(self) -> bool:
        return self._lost or self._canceled

    def held(self) -> Any:
        """The condition that every write of this lease carries."""
        return (Job.id == self.job_id) & (Job.fence == self.fence) & (Job.state == JobState.PROCESSING)

    def _finish(self, session: Session) -> None:
        values = {"state": JobState.SUCCEEDED, "completed_at": now(), "lease_until": None, "error": None}
        done = (
            update(Job)
            .where(self.held(), ~Job.cancel_requested, ~_account_gone())
            .values(progress=self._progress, metrics=self.all_metrics(), **values)
        )
        if session.execute(done.returning(Job.id)).first() is None:
            standing = session.execute(select(Job.id).where(self.held())).first()
            raise JobCanceled if standing else LeaseLost
        webhook_events.job_ended(session, self.job_id)

    def _write(self, values: dict[str, Any]) -> None:
        """One fenced UPDATE; also learns whether the job was canceled or lost. While the database is down, the lease runs on to its end."""
        if self._ending or self.over:
            return
        extra = {"progress": dict(self._progress)} if self._unwritten else {}
        if not extra and not values:
            return
        try:
            with self._storage.db.session() as session:
                change = update(Job).where(self.held()).values(**values, **extra).returning(Job.cancel_requested)
                row = session.execute(change, execution_options={"synchronize_session": False}).first()
        except ServiceDown as error:
            log.warning("progress not written", job=self.job_id, error=str(error))
            return
        self._written_at, self._unwritten = time.monotonic(), False
        self._saw(None if row is None else bool(row[0]))
        if "lease_until" in values:
            self._renewed()

    def _stands(self, session: Session) -> bool:
        """Locked: an erasure or a cancellation waits until the transaction ends."""
        mine = select(Job.id).where(self.held(), ~Job.cancel_requested, ~_account_gone())
        return session.scalar(mine.with_for_update(read=True, of=Job)) is not None

    def _look(self) -> None:
        try:
            with self._storage.db.reader() as session:
                row = session.execute(select(Job.cancel_requested | _account_gone()).where(self.held())).first()
        except ServiceDown as error:
            log.warning("lease not checked", job=self.job_id, error=str(error))
        else:
            self._saw(None if row is None else bool(row[0]))

    def _look_and_raise(self) -> None:
        self._raise_if_over()
        self._look()
        self._raise_if_over()

    def _saw(self, cancel: bool | None) -> None:
        self._looked_at = time.monotonic()
        self._lost |= cancel is None
        self._canceled |= bool(cancel)

    def _renewed(self) -> None:
        self._looked_at = time.monotonic()
        self._ends_at = self._looked_at + self._storage.settings.lease_s

    def _raise_if_over(self) -> None:
        if self._canceled:
            raise JobCanceled
        if self._lost or time.monotonic() > self._ends_at:  # unrenewed for a whole lease: by now it may be another worker's
            self._lost = True
            raise LeaseLost


def _account_gone() -> Any:
    return select(Account.gone).where(Account.id == Job.account_id).scalar_subquery()
