"""What leaves the toolkit: a network with its input scaling, softmax, box decoding and suppression.

Plain modules of torch operators that exporters know, in float32. Their shapes depend on the shape
of the input only, never on its content.
"""

import torch
from torch import Tensor, nn

from vision.deploy.graph_suppression import GraphSuppression
from vision.ops.box_coder import decode_boxes
from vision.ops.box_voting import NUM_VOTERS
from vision.ssd.network import Normalization
from vision.ssd.postprocess import PostProcessing
from vision.ssd.ssd import SSD

# What jetson-inference's detectNet feeds: (p / 255 - 0.5) / 0.5 of RGB.
DETECTNET_INPUT = Normalization(mean=(127.5,) * 3, std=(127.5,) * 3)
PIXELS = Normalization(mean=(0.0,) * 3, std=(1.0,) * 3)
# The boxes of an image that are looked at: the best of them, whatever their score, as many as have
# a vote. The time of suppression goes with the square: 200 take a quarter of it, but cost 0.012 AP
# in detectNet on the blood cells (mb2-ssd-lite-fpn).
NUM_CANDIDATES = NUM_VOTERS


class RescaledInput(nn.Module):
    """A network that is fed another normalisation than it was trained with.

    The difference is corrected before the first layer, and not in its weights, which could not
    correct it at the edges: the layer pads with zeros, which mean `mean` of its own normalisation.

    Args:
        model: the network; it is used as it is, in evaluation mode.
        fed_as: the normalisation of the images that will come.
    """

    def __init__(self, model: SSD, *, fed_as: Normalization):
        super().__init__()
        self.model = model.eval()
        own = model.network.normalization
        self.is_needed = fed_as != own
        fed, own = (torch.tensor([x.mean, x.std]).double()[..., None, None] for x in (fed_as, own))
        self.register_buffer("scale", (fed[1] / own[1]).float())
        self.register_buffer("shift", ((fed[0] - own[0]) / own[1]).float())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, 3, H, W] to cls_logits [B, P, C+1] and bbox_regression [B, P, 4]."""
        return self.model(images * self.scale + self.shift if self.is_needed else images)


class PlainForm(nn.Module):
    """All priors' scores and boxes, not clipped: as the family's exporter gives them.

    Args:
        model: the network; its images come in detectNet's normalisation.
    """

    def __init__(self, model: SSD):
        super().__init__()
        self.rescaled = RescaledInput(model, fed_as=DETECTNET_INPUT)
        self.register_buffer("priors_cxcywh", model.priors_cxcywh)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, 3, H, W] to scores [B, P, C+1] and boxes [B, P, 4], xyxy in the image's sides."""
        cls_logits, bbox_regression = self.rescaled(images)
        return cls_logits.softmax(dim=-1), decode_boxes(bbox_regression, self.priors_cxcywh)


class HeadsForm(nn.Module):
    """All priors' scores and box offsets from pixels, for a decoder behind it.

    Args:
        model: the network.
    """

    def __init__(self, model: SSD):
        super().__init__()
        self.rescaled = RescaledInput(model, fed_as=PIXELS)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 [B, H, W, 3] RGB to scores [B, P, C+1] and (ty, tx, th, tw) [B, P, 4]."""
        cls_logits, bbox_regression = self.rescaled(images.permute(0, 3, 1, 2).float())
        tx, ty, tw, th = bbox_regression.unbind(dim=-1)
        return cls_logits.softmax(dim=-1), torch.stack([ty, tx, th, tw], dim=-1)


class BestClassForm(nn.Module):
    """The best priors' scores and boxes, suppressed: what detectNet reads, and shows as it is.

    detectNet takes the best class of each prior, and so does the suppression. Its own merging of
    boxes finds nothing left to do where `iou_threshold` is at most 0.6: it asks for an intersection
    above 0.75 of the larger box, and boxes of such an intersection have an IoU above 0.6.

    Args:
        model: the network; its images come in detectNet's normalisation.
        settings: the post-processing; lower scores than its own have no vote on a box's place.
        num_candidates: priors that are looked at, those of the highest scores.
    """

    def __init__(
        self,
        model: SSD,
        settings: PostProcessing,
        *,
        num_candidates: int = NUM_CANDIDATES,
    ):
        super().__init__()
        self.rescaled = RescaledInput(model, fed_as=DETECTNET_INPUT)
        self.register_buffer("priors_cxcywh", model.priors_cxcywh)
        self.num_candidates = min(num_candidates, len(model.priors_cxcywh))
        self.score_threshold = settings.score_threshold
        self.suppression = GraphSuppression(
            self.num_candidates,
            iou_threshold=settings.iou_threshold,
            voting_iou=settings.voting_iou,
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, 3, H, W] to scores [B, K, C+1] and boxes [B, K, 4], xyxy in 0..1, best first.

        The scores of a box that is suppressed are 0, and 1 for the background.
        """
        cls_logits, bbox_regression = self.rescaled(images)
        rows = _best_rows(cls_logits, self.num_candidates)
        scores = _take(cls_logits, rows).softmax(dim=-1)
        order = scores[..., 1:].amax(dim=-1).topk(self.num_candidates).indices
        rows, scores = rows.gather(1, order), _take(scores, order)
        boxes = decode_boxes(_take(bbox_regression, rows), self.priors_cxcywh[rows]).clamp(0, 1)
        top_scores, labels = scores[..., 1:].max(dim=-1)
        votes = top_scores * (top_scores > self.score_threshold)
        keep, boxes = self.suppression(boxes, labels, votes)
        keep = keep[..., None]
        background = torch.maximum(scores[..., :1], 1 - keep)
        return torch.cat([background, scores[..., 1:] * keep], dim=-1), boxes


class DetectionForm(nn.Module):
    """Detections from pixels: what the network's own post-processing gives, in a fixed number.

    Args:
        model: the network.
        settings: the post-processing; its number of detections is that of the result. All classes
            share the candidates, the NUM_CANDIDATES pairs of a prior and a class of the highest
            scores, so that `candidates_per_class` has no meaning here.
    """

    def __init__(self, model: SSD, settings: PostProcessing):
        super().__init__()
        self.rescaled = RescaledInput(model, fed_as=PIXELS)
        self.register_buffer("priors_cxcywh", model.priors_cxcywh)
        self.score_threshold = settings.score_threshold
        num_priors, num_classes = len(model.priors_cxcywh), model.num_classes - 1
        self.num_rows = min(NUM_CANDIDATES, num_priors)
        self.num_candidates = min(NUM_CANDIDATES, num_priors * num_classes)
        self.suppression = GraphSuppression(
            self.num_candidates,
            iou_threshold=settings.iou_threshold,
            voting_iou=settings.voting_iou,
        )
        limit = settings.detections_per_image or self.num_candidates
        self.num_detections = min(limit, self.num_candidates)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect.

        Args:
            images: uint8 [B, H, W, 3], RGB as it is in the file.

        Returns:
            boxes [B, N, 4], xyxy in 0..1; scores [B, N], best first, 0 where there are less than N
            detections; labels int64 [B, N] in 1..C.
        """
        cls_logits, bbox_regression = self.rescaled(images.float().permute(0, 3, 1, 2))
        rows = _best_rows(cls_logits, self.num_rows)
        scores = _take(cls_logits, rows).softmax(dim=-1)[..., 1:]
        top_scores, places = scores.flatten(1).topk(self.num_candidates)
        num_classes = scores.shape[2]
        row_places = torch.div(places, num_classes, rounding_mode="trunc")
        labels = places - row_places * num_classes
        rows = rows.gather(1, row_places)
        boxes = decode_boxes(_take(bbox_regression, rows), self.priors_cxcywh[rows]).clamp(0, 1)
        top_scores = top_scores * (top_scores > self.score_threshold)
        keep, boxes = self.suppression(boxes, labels, top_scores)
        top_scores, order = (top_scores * keep).topk(self.num_detections)
        return _take(boxes, order), top_scores, labels.gather(1, order) + 1


def _best_rows(cls_logits: Tensor, num_rows: int) -> Tensor:
    """Return the priors [B, K] of the highest odds: of their best class to the background.

    Without a softmax of all priors. Where the background has most of the probability, as around the
    last one that is taken, this is the order of the scores of their best class.
    """
    # The background as a slice: taking its column makes OpenVINO 2026.4 lose a dimension in int8.
    odds = cls_logits[..., 1:].amax(dim=-1, keepdim=True) - cls_logits[..., :1]
    return odds[..., 0].topk(num_rows).indices


def _take(values: Tensor, rows: Tensor) -> Tensor:
    """Take rows [B, K] of [B, P, N]."""
    # Added zeros, as the exporter makes four operators of an expand(), one not for all devices.
    columns = rows[..., None] + torch.tensor([0] * values.shape[2])
    return values.gather(1, columns)
