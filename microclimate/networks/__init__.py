"""The neural networks, from building blocks to whole models."""
