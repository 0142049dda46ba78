"""The command line, and the only place that sees every room."""

import os

# Workers share a machine: threads that spin long at barriers slow each other down many times over when two processes want the same
# cores; threads that never spin lose a third alone (docs/decisions/0004). Read once, when torch loads its OpenMP; hence here, first.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
