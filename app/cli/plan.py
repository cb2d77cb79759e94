"""`plan`: size a pair for AWS Neuron."""

from app.neuron.planner import add_arguments, main

__all__ = ["add_arguments", "main"]
