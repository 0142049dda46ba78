"""Measuring the product with its own parts: evaluation of subjects, reports, ablations."""
