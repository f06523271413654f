"""Trained detectors at work, and the files that leave for other runtimes."""

from vision.deploy.detector import Detector

__all__ = ["Detector"]
