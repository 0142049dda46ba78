"""Adapter to portraits: the engine that holds one base model, the adapter cache, modes, the render worker."""
