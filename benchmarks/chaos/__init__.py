"""Faults on purpose: the real service on this machine, killed and paused by a seeded plan, then audited for what was lost or doubled."""
