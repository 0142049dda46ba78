"""Flux: families, loading, quantisation, text encoding, latents, LoRA weights, schedules. Knows nothing of jobs or customers."""
