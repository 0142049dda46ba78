"""The table of a run."""

from __future__ import annotations

from collections import Counter
from typing import Any

from benchmarks.chaos.faults import WORDS


def table(result: dict[str, Any]) -> str:
    """Markdown: faults by kind, then what became of the work."""
    counts = Counter(fault["kind"] for fault in result["faults"])
    words = {kind.__name__: text for kind, text in WORDS.items()}
    lines = ["| fault | times |", "| --- | ---: |"]
    lines += [f"| {words[kind]} | {count} |" for kind, count in counts.most_common()]
    lines += [f"| {words[kind]} | left out |" for kind in result["left_out"]]
    lines += ["", "| outcome | |", "| --- | ---: |"]
    lines += [f"| {name} | {count} |" for name, count in result["jobs"].items()]
    lines += [f"| attempts lost: {cause} | {count} |" for cause, count in result["attempts_lost"].items()]
    lines += [
        f"| claims | {result['claims']} |",
        f"| mails, and further copies of one | {result['mails']}, {result['mail_copies']} |",
        f"| longest time that a lease outlived its end | {result['longest_lease_overrun_s']} s |",
        f"| lost, doubled, left behind or untrue | {len(result['problems'])} |",
    ]
    return "\n".join([*lines, "", *(f"PROBLEM {problem}" for problem in result["problems"])])
