"""Read before any test imports torch."""

import os

import likeness  # noqa: F401 (sets how threads wait)

if at_once := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # processes side by side share the cores, and so do what they start
    os.environ.pop("COLUMNS", None)  # set for the report; a console that is made at import would keep it whatever a test sets
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // at_once)))
