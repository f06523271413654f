"""One way to run a detector, whatever it is kept in; torch is imported where a file needs it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vision.deploy.detect import RUNTIMES, Detections, FileDetector, Image


class Detector:
    """A detector from a run folder, a checkpoint or an exported file; `load` makes one."""

    def __init__(self, backend: Any) -> None:
        """Take what `load` has opened."""
        self._backend = backend

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        threshold: float | None = None,
        default_threshold: float = 0.5,
        iou_threshold: float | None = None,
        net: str | None = None,
        label_file: str | Path | None = None,
        device: str = "auto",
        precision: str = "auto",
        tiles: int | None = None,
        box_voting: float | None = None,
    ) -> "Detector":
        """Load a detector; an exported file does not import torch.

        Args:
            path: a run folder, a checkpoint, a weight file of the family, `torchvision` for its
                COCO weights of `net`, or an .onnx, .xml or .tflite file that export_ssd.py wrote.
            threshold: lowest score of a detection; None: for each class what the checkpoint or
                the exported file recommends, else `default_threshold`.
            default_threshold: for a network in torch that recommends none.
            iou_threshold: of the suppression of a network in torch; None: the network's. An
                exported file has its own inside.
            net: network of a weight file.
            label_file: class names of a weight file.
            device: auto, cpu, cuda, mps; of a network in torch.
            precision: auto, fp32, bf16 or fp16; of a network in torch.
            tiles: look at each image whole and in so many overlapping tiles along each side; None:
                as it was trained.
            box_voting: a detection of a network in torch moves to the mean of the boxes of its
                class with a higher IoU; 0: it stays; None: as it was trained. An exported file has
                its own inside.

        Raises:
            ValueError: not a detector, or an option that an exported file cannot follow.
            OSError: cannot be read.
        """
        if Path(path).suffix.lower() in RUNTIMES:
            if iou_threshold is not None or box_voting is not None:
                flag = "--box-voting" if iou_threshold is None else "--iou-threshold"
                raise ValueError(
                    f"{path}: its suppression is part of the file; export it again with another "
                    f"{flag}"
                )
            return cls(FileDetector(path, threshold=threshold, tiles=tiles))
        try:
            from vision.deploy.torch_detector import load_torch_detector
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{path}: needs {error.name} to run (pip install {error.name}); what export_ssd.py "
                "writes runs without it"
            ) from None
        return cls(
            load_torch_detector(
                path,
                threshold=threshold,
                default_threshold=default_threshold,
                iou_threshold=iou_threshold,
                net=net,
                label_file=label_file,
                device=device,
                precision=precision,
                tiles=tiles,
                box_voting=box_voting,
            )
        )

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
