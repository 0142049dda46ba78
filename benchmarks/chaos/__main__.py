"""``make chaos FAULTS=n SEED=s JSON=file``: the real service under faults, and an audit of what became of every request.

    python -m benchmarks.chaos --faults 200 --seed 1 --json benchmarks/results/chaos-DATE-HOST.json

Exit code 1 if anything was lost or doubled, failed without a true reason, or kept a lease for 30 s past its end. Needs the development
extras (PostgreSQL, S3 and mail servers as packages); as root also the fault «disk full», on a tmpfs of its own. Touches only processes that
it started, on the loopback interface.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import func, select

from benchmarks.chaos.audit import Verdict, audit
from benchmarks.chaos.customers import Customers
from benchmarks.chaos.faults import WORDS, Inject, Injected, plan, possible
from benchmarks.chaos.report import table
from benchmarks.chaos.service import Service
from benchmarks.chaos.watching import LeaseWatch
from core.errors import ServiceDown
from storage.tables import Job, Mail
from storage.wiring import Storage

PAUSE_S = (1.0, 5.0)  # between faults
SETTLE_WITHIN_S = 900.0


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    var = Path(tempfile.mkdtemp(prefix="likeness-chaos-"))
    began, kept = time.monotonic(), asked.keep
    try:
        result = run(var, asked)
        result["seconds"] = round(time.monotonic() - began)
        if asked.json:
            asked.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(table(result))
        kept |= bool(result["problems"])
        return 1 if result["problems"] else 0
    finally:
        if kept:
            print(f"logs are in {var}", file=sys.stderr)
        else:
            shutil.rmtree(var, ignore_errors=True)


def run(var: Path, asked: argparse.Namespace) -> dict[str, Any]:
    with Service(var) as service:
        customers = Customers(service, asked.subjects, asked.seed)
        storage = service.storage()
        watch = LeaseWatch(storage)
        customers.start()
        watch.start()
        kinds = [kind for kind in possible(service) if not asked.only or kind.__name__ in asked.only]
        faults = inject_all(service, plan(asked.faults, asked.seed, kinds), Random(asked.seed), time.monotonic() + asked.minutes * 60)
        customers.want_no_more()
        wait_until_settled(storage, customers)
        customers.stop()
        watch.stop()
        verdict = audit(storage, customers.asked, service.mail.taken, faults, watch.longest)
        verdict.problems += [f"an answer that no customer should get: {one}" for one in customers.unexpected]
        return as_result(asked, faults, verdict, watch, len(service.said), [kind.__name__ for kind in WORDS if kind not in kinds])


def inject_all(service: Service, kinds: Sequence[Inject], random: Random, ends: float) -> list[Injected]:
    """One after the other, with pauses too short for the service to recover from all of it."""
    done: list[Injected] = []
    for number, inject in enumerate(kinds):
        time.sleep(random.uniform(*PAUSE_S))
        if time.monotonic() > ends:
            print(f"the time is up after {number} of {len(kinds)} faults", flush=True)
            break
        fault = Injected(inject.__name__, "", time.time())
        fault.target = inject(service, random)
        fault.ended = time.time()
        done.append(fault)
        print(f"{number + 1:4d} {WORDS[inject]}: {fault.target}", flush=True)
    return done


def wait_until_settled(storage: Storage, customers: Customers) -> None:
    """Until every request has ended, what attempts left is swept, and every mail is sent; or the time for that is up: then it is lost."""
    ends = time.monotonic() + SETTLE_WITHIN_S
    while time.monotonic() < ends:
        try:
            if not customers.open and not _waiting(storage):
                return
        except ServiceDown:
            pass
        time.sleep(1)


def _waiting(storage: Storage) -> int:
    with storage.db.reader() as session:
        jobs = session.scalar(select(func.count()).select_from(Job).where(Job.swept_at.is_(None))) or 0
        mails = session.scalar(select(func.count()).select_from(Mail).where(Mail.sent_at.is_(None), Mail.failed_at.is_(None))) or 0
    return jobs + mails


def as_result(
    asked: argparse.Namespace, faults: Sequence[Injected], verdict: Verdict, watch: LeaseWatch, restarts: int, left_out: list[str]
) -> dict[str, Any]:
    return {
        "what": "chaos",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": f"{platform.machine()}, {platform.processor() or platform.system()}",
        "command": f"python -m benchmarks.chaos --faults {asked.faults} --seed {asked.seed}",
        "model": "the miniature, taught weights, 8 steps a training, 2 pictures of 2 steps a portrait",
        "faults": [fault.as_dict() for fault in faults],
        "left_out": left_out,
        "restarts": restarts,
        "longest_lease_overrun_s": round(watch.longest, 1),
        **verdict.counts,
        "problems": verdict.problems,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60, help="no fault begins after this")
    parser.add_argument("--subjects", type=int, default=4)
    parser.add_argument("--only", action="append", choices=[kind.__name__ for kind in WORDS], help="only these; may be repeated")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
