"""Detection on single images or batches of them, given as files or arrays."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from vision.nn.cpu.optimize import optimize_for_inference
from vision.ops.tiles import join_views, num_views, tile_rectangles
from vision.ssd.postprocess import postprocess
from vision.ssd.ssd import SSD

Image = np.ndarray | str | os.PathLike


class Predictor:
    """A trained network made ready for prediction: folded, channels-last, in one number format.

    A network with tiles looks at each image whole and in tiles, as in evaluation.

    `vision.deploy.load_predictor.load_predictor` builds one from a run folder or a weight file.

    Args:
        model: the network; it is copied and left as it is.
        class_names: of labels 1..C.
        read_image: path -> uint8 [H, W, 3] RGB.
        resize: uint8 [H, W, 3] -> uint8 [h, w, 3] at the network's input size.
        normalize: (uint8 [B, 3, h, w], dtype=dtype) -> what the network takes.
        device: where to run.
        dtype: of weights and activations; bfloat16 is the faster one where the CPU has it.
        score_threshold: lowest score of a detection.
        iou_threshold: of the suppression of overlapping boxes of a class; None: the network's.
        voting_iou: of box voting, 0: none; None: the network's.
        batch_size: images, or views of them, that go through the network together; the views of
            an image stay together.
    """

    def __init__(
        self,
        model: SSD,
        class_names: Sequence[str],
        *,
        read_image: Callable[[str | os.PathLike], np.ndarray],
        resize: Callable[[np.ndarray], np.ndarray],
        normalize: Callable[..., Tensor],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        score_threshold: float = 0.3,
        iou_threshold: float | None = None,
        voting_iou: float | None = None,
        batch_size: int = 16,
    ):
        self.class_names = list(class_names)
        settings = model.network.postprocessing.changed(
            iou_threshold=iou_threshold, voting_iou=voting_iou
        )
        # Boxes of lower scores than are wanted have a vote, as in evaluation and exported files.
        lowest = settings.score_threshold if settings.voting_iou else score_threshold
        self._settings = settings.changed(score_threshold=min(lowest, score_threshold))
        self._score_threshold = score_threshold
        self.voting_iou = settings.voting_iou
        self.batch_size = batch_size
        self._tiles = model.network.tiles
        self.device = torch.device(device)
        self._dtype = dtype
        self._read_image = read_image
        self._resize = resize
        self._normalize = normalize
        self._priors_cxcywh = model.priors_cxcywh.to(self.device)  # these stay float32
        self._model = optimize_for_inference(model).to(
            self.device, dtype, memory_format=torch.channels_last
        )

    def __call__(self, images: Image | Sequence[Image]) -> dict | list[dict]:
        """Detect objects.

        Args:
            images: a path, an array uint8 [H, W, 3] RGB, or a list of these in any sizes.

        Returns:
            For each image a dict of `boxes` float32 [N, 4] xyxy in its pixels, `scores` [N] and
            `labels` int64 [N] as tensors on the CPU, best first, and `names`, a list. One dict
            for one image, a list for a list.

        Raises:
            ValueError: an array of another shape or type, or a file that is no image.
            OSError: a file that cannot be opened.
        """
        if isinstance(images, (np.ndarray, str, os.PathLike)):
            return self([images])[0]
        at_once = max(1, self.batch_size // num_views(self._tiles))
        starts = range(0, len(images), at_once)
        batches = [images[start : start + at_once] for start in starts]
        return [result for batch in batches for result in self._predict(batch)]

    @torch.inference_mode()
    def _predict(self, batch: Sequence[Image]) -> list[dict]:
        photos = [self._read(image) for image in batch]
        views = [tile_rectangles([x.shape[:2]], self._tiles)[0].tolist() for x in photos]
        inputs = [
            self._resize(pixels[y1:y2, x1:x2])
            for pixels, rectangles in zip(photos, views, strict=True)
            for x1, y1, x2, y2 in rectangles
        ]
        sizes = [(y2 - y1, x2 - x1) for rectangles in views for x1, y1, x2, y2 in rectangles]
        images = torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2)
        cls_logits, bbox_regression = self._model(
            self._normalize(images.to(self.device), dtype=self._dtype)
        )
        results = postprocess(
            cls_logits,
            bbox_regression,
            self._priors_cxcywh,
            torch.tensor(sizes, device=self.device),
            **asdict(self._settings),
        )
        if self._tiles > 1:
            count = num_views(self._tiles)
            results = [
                join_views(
                    results[k * count : (k + 1) * count],
                    rectangles,
                    iou_threshold=self._settings.iou_threshold,
                )
                for k, rectangles in enumerate(views)
            ]
        for result in results:
            is_wanted = result["scores"] > self._score_threshold
            result.update({name: value[is_wanted].cpu() for name, value in result.items()})
            result["names"] = [self.class_names[label - 1] for label in result["labels"].tolist()]
        return results

    def _read(self, image: Image) -> np.ndarray:
        """Return an image's pixels, uint8 [H, W, 3]."""
        pixels = image if isinstance(image, np.ndarray) else self._read_image(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(
                f"an image is uint8 [H, W, 3] in RGB, not {pixels.dtype} {list(pixels.shape)}"
            )
        return pixels
