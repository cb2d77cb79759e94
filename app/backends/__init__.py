"""Engines that run a Llama model behind `app.model`'s protocols; each loads lazily, by name."""
