"""Photos to adapter: curate, caption, encode, fit, select, store. ``pipeline`` reads top to bottom."""
