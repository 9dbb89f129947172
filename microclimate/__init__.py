"""Regional weather forecasting with neural networks. Every module is exported from the notebook of the same name in `nbs/`."""

__version__ = "0.1.0"
