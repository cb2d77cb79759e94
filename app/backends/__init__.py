"""Engines that run a Llama model behind `app.engine.model`'s protocols; each loads lazily, by name."""
