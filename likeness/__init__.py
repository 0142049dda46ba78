"""The command line, and the only place that sees every room."""

import os

# Workers share a machine: threads that spin at barriers slow each other down fourfold when two processes want the same cores
# (a training step of 0.9 s became 3.5 s on two cores). Read once, when torch loads its OpenMP; hence here, before anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
