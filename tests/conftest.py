"""Read before any test imports torch."""

import likeness  # noqa: F401 (sets how threads wait)
