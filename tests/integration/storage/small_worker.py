"""A worker like ours whose jobs are small: run by tests as its own process. Arguments: folder, name, and GPUs if it has several.

Its job steps until the file ``go`` is there, then stores an object. Files in the folder say how it misbehaves: ``fault`` makes the next
attempt fail as a dead GPU does, ``deaf`` makes it look neither left nor right.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from core.queues import RUN_TRAINING
from core.settings import Settings
from likeness.gpus import VISIBLE, deal
from storage.leases import Lease
from storage.wiring import open_storage
from storage.worker_process import StopFlag, work_on, worker_app


class SmallChild:
    def __init__(self, settings: Settings, name: str, stop: StopFlag) -> None:
        self.settings, self.name, self.stop = settings, f"{name}-{os.getpid()}", stop
        self.storage = open_storage(settings)
        self.dead = False

    def start(self) -> None:
        self._note(f"sees {os.environ.get(VISIBLE)}")

    def run(self, job_id: str) -> str:
        outcome = work_on(self.storage, job_id, self.name, self._work, self.stop, lambda: self.dead)
        self._note(outcome)
        return outcome

    def _work(self, lease: Lease) -> None:
        folder = self.settings.var_dir
        self._note("works")
        with lease.stage("fit"):
            for step in range(10**6):
                lease.progress(step=step, message=self.name)
                if (folder / "fault").exists():
                    (folder / "fault").unlink()
                    self.dead = True
                    raise RuntimeError("CUDA error: an illegal memory access was encountered")
                if not (folder / "deaf").exists():
                    lease.check()
                if (folder / "go").exists():
                    break
                time.sleep(0.05)
        lease.put(f"accounts/x/{lease.fence}", self.name.encode())
        lease.finish(lambda session: None)

    def _note(self, what: str) -> None:
        with (self.settings.var_dir / "notes").open("a") as file:
            file.write(f"{self.name} {what}\n")


def main(folder: str, name: str, *gpus: str) -> None:
    if gpus:
        deal(gpus)
    settings = Settings(_env_file=None, var_dir=Path(folder), lease_s=2, heartbeat_s=0.2, shutdown_within_s=4)  # type: ignore[call-arg]
    app = worker_app(settings, "small", lambda stop: SmallChild(settings, name, stop), {RUN_TRAINING: SmallChild.run})
    pool = ["--pool=prefork", f"--concurrency={max(1, len(gpus))}"]
    app.worker_main(["worker", *pool, "--queues=train", f"--hostname={name}@here", "--loglevel=WARNING"])


if __name__ == "__main__":
    main(*sys.argv[1:])
