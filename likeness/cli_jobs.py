"""``likeness jobs``: what waits, runs and failed, over all accounts; to try again or stop."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from core.words import JobKind, JobState
from likeness.plain import out, plainly, settings_with

app = typer.Typer(no_args_is_help=True, help="Look at jobs, try failed ones again, stop them.")

JobId = Annotated[str, typer.Argument(help="The job's id, or its training's or portrait's.")]
COLUMNS = ("job", "kind", "of", "state", "attempts", "created", "stage", "worker", "error")


@app.command("list")
@plainly
def list_jobs(
    state: Annotated[JobState | None, typer.Option(help="Only those in this state.")] = None,
    kind: Annotated[JobKind | None, typer.Option(help="Only those of this kind.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, newest first.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with what each attempt died of.")] = False,
) -> None:
    """The newest jobs. Names no customer: ids only."""
    from storage import job_admin
    from storage.wiring import open_storage

    with open_storage(settings_with()).db.reader() as session:
        rows = [_facts(job) for job in job_admin.newest(session, state, kind, limit)]
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    table = Table(*COLUMNS, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(str(row[name] if row[name] is not None else "") for name in COLUMNS))
    out.print(table)


@app.command()
@plainly
def retry(job_id: JobId) -> None:
    """Put a failed job back in the queue, with all its attempts. A training goes on from its last checkpoint, if that is still kept."""
    from storage import job_admin
    from storage.wiring import open_storage

    with open_storage(settings_with()).db.session() as session:
        job = job_admin.find(session, job_id)
        job_admin.retry(session, job)
    out.print(f"{job.id} waits; the scheduler publishes it within seconds")


@app.command()
@plainly
def cancel(job_id: JobId) -> None:
    """Stop a job: one that waits at once, one that runs at its next step."""
    from storage import job_admin, jobs
    from storage.wiring import open_storage

    with open_storage(settings_with()).db.session() as session:
        job = job_admin.find(session, job_id)
        jobs.request_cancel(session, job)
    says = {JobState.PROCESSING: "stops at its next step", JobState.CANCELED: "is canceled"}
    out.print(f"{job.id} {says.get(JobState(job.state), f'has ended already: {job.state}')}")


def _facts(job: Any) -> dict[str, Any]:
    error = job.error or {}
    return {
        "job": job.id,
        "kind": job.kind,
        "of": job.target_id,
        "state": job.state,
        "attempts": job.attempts,
        "created": _moment(job.created_at),
        "started": _moment(job.started_at),
        "completed": _moment(job.completed_at),
        "lease_until": _moment(job.lease_until),
        "worker": job.worker,
        "stage": (job.progress or {}).get("stage"),
        "error": error.get("type"),
        "died_of": error.get("attempts", []),
        "seconds": (job.metrics or {}).get("seconds", {}),
    }


def _moment(value: datetime | None) -> str | None:
    return value.isoformat(timespec="seconds") if value else None
