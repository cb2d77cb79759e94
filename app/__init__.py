"""Speculative sampling, side by side: a playground for Llama pairs."""
