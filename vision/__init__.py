"""Train, evaluate and run SSD object detectors."""

__version__ = "0.1.0"
