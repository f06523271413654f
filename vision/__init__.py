"""Train, evaluate and run MobileNetV2-SSD detectors."""

__version__ = "0.1.0"
