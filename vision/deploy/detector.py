"""One way to run a detector, whatever it is kept in; torch is imported where a file needs it."""

from collections.abc import Sequence
from pathlib import Path

from vision.deploy.detect import Detections, Image, OnnxDetector


class Detector:
    """A detector from a run folder, a checkpoint or an exported file; `load` makes one."""

    def __init__(self, backend):
        self._backend = backend

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        threshold: float | None = None,
        net: str | None = None,
        label_file: str | Path | None = None,
    ) -> "Detector":
        """Load a detector; an .onnx file does not import torch.

        Args:
            path: a run folder, a checkpoint, a weight file of the family, or an .onnx file that
                export_ssd.py wrote.
            threshold: lowest score of a detection; None: what the file recommends, else 0.5.
            net: network of a weight file.
            label_file: class names of a weight file.

        Raises:
            ValueError: not a detector.
            OSError: cannot be read.
        """
        if Path(path).suffix == ".onnx":
            return cls(OnnxDetector(path, threshold=threshold))
        from vision.deploy.torch_detector import TorchDetector
        from vision.runs.load_model import load_for_inference

        model, classes, _ = load_for_inference(path, net=net, label_file=label_file)
        return cls(TorchDetector(model, classes, threshold=0.5 if threshold is None else threshold))

    @property
    def names(self) -> list[str]:
        """The class names by class id; the first one is the background."""
        return self._backend.names

    def predict(self, images: Image | Sequence[Image]) -> Detections | list[Detections]:
        """Detect objects.

        Args:
            images: a path, or uint8 [H, W, 3] in RGB, or a list of either.

        Returns:
            The detections of one image, or a list of them for a list.

        Raises:
            ValueError: not an image.
            OSError: a file that cannot be read.
        """
        return self._backend.predict(images)
