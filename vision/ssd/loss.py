"""The MultiBox loss: matching, hard negative mining, cross entropy and smooth L1."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.ops.box_coder import encode_boxes
from vision.ops.matcher import BACKGROUND, match_priors, pad_targets


class MultiBoxLoss:
    """SSD's training objective (Liu et al. 2016, section 2.2, equations 1 to 3, with alpha 1).

    Args:
        priors_cxcywh: [P, 4] in 0..1.
        image_size: (height, width) of the network's input, the frame of the targets' boxes.
        iou_threshold: overlap from which a prior is positive.
        neg_pos_ratio: negatives that count, for each positive of an image.
    """

    def __init__(
        self,
        priors_cxcywh: Tensor,
        *,
        image_size: tuple[int, int],
        iou_threshold: float = 0.4,
        neg_pos_ratio: float = 3,
    ):
        self.priors_cxcywh = priors_cxcywh
        height, width = image_size
        self.box_scale = priors_cxcywh.new_tensor([width, height, width, height])
        self.iou_threshold = iou_threshold
        self.neg_pos_ratio = neg_pos_ratio

    def __call__(
        self, cls_logits: Tensor, bbox_regression: Tensor, targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch, in float32 whatever the network ran in.

        Sums are divided by the positives of the batch. An image without positives is mined as if
        it had one, and counts as one in the divisor, so that its hardest negatives teach
        something and a batch of empty images cannot weigh more than others.

        Args:
            cls_logits: [B, P, C + 1].
            bbox_regression: [B, P, 4].
            targets: one dict an image: boxes [N, 4] xyxy in pixels of the input, labels [N] in
                1..C, and iscrowd [N]. Where images are not annotated for all classes, also
                unannotated bool [C + 1]: their logits do not take part, so that the image teaches
                nothing about these classes.

        Returns:
            Scalars `loss`, `loss_classification`, `loss_regression`, the count `num_pos`, and the
            `divisor` of the sums.
        """
        if "unannotated" in targets[0]:
            absent = torch.stack([target["unannotated"] for target in targets])  # [B, C + 1]
            cls_logits = cls_logits.masked_fill(absent[:, None], -torch.inf)
        prior_labels, matched_boxes = self.match(targets)
        positive = prior_labels > BACKGROUND
        num_pos = positive.sum(dim=1)
        with torch.no_grad():
            background_loss = -F.log_softmax(cls_logits.float(), dim=-1)[..., BACKGROUND]
        negative = mine_hard_negatives(
            background_loss,
            prior_labels,
            num_negatives=(num_pos.clamp(min=1) * self.neg_pos_ratio).ceil().long(),
        )
        divisor = num_pos.clamp(min=1).sum()

        # Few priors count: gradients are computed of these alone.
        chosen = (positive | negative).nonzero(as_tuple=True)
        logits = _Select.apply(cls_logits, *chosen).float()
        cross_entropy = F.cross_entropy(logits, prior_labels[chosen], reduction="sum")
        loss_classification = cross_entropy / divisor

        chosen = positive.nonzero(as_tuple=True)
        encoded = encode_boxes(matched_boxes[chosen], self.priors_cxcywh[chosen[1]])
        offsets = _Select.apply(bbox_regression, *chosen).float()
        loss_regression = F.smooth_l1_loss(offsets, encoded, reduction="sum") / divisor
        return {
            "loss": loss_classification + loss_regression,
            "loss_classification": loss_classification,
            "loss_regression": loss_regression,
            "num_pos": num_pos.sum(),
            "divisor": divisor,
        }

    @torch.no_grad()
    def match(self, targets: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return the priors' labels [B, P] and matched boxes [B, P, 4] xyxy in 0..1."""
        boxes, labels, iscrowd = pad_targets(targets)
        return match_priors(
            boxes / self.box_scale,
            labels,
            iscrowd,
            self.priors_cxcywh,
            iou_threshold=self.iou_threshold,
        )


class _Select(torch.autograd.Function):
    """x[rows, columns] for places that differ; torch's own gradient adds them up one by one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return [N, V] of x [B, P, V], at N places that rows and columns [N] name."""
        ctx.save_for_backward(rows, columns)
        ctx.shape = x.shape
        return x[rows, columns]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x [B, P, V]."""
        grad_x = grad.new_zeros(ctx.shape)
        grad_x[ctx.saved_tensors] = grad
        return grad_x, None, None


@torch.no_grad()
def mine_hard_negatives(
    background_loss: Tensor, prior_labels: Tensor, *, num_negatives: Tensor
) -> Tensor:
    """Choose each image's background priors of the highest loss (section 2.2).

    Args:
        background_loss: [B, P]; read where the label is BACKGROUND.
        prior_labels: [B, P]; positive and ignored priors are never chosen.
        num_negatives: [B], how many to choose.

    Returns:
        bool [B, P].
    """
    loss = background_loss.masked_fill(prior_labels != BACKGROUND, -torch.inf)
    most = min(int(num_negatives.max()), loss.shape[1])
    hardest_loss, hardest = loss.topk(most, dim=1)  # [B, most], highest first
    rank = torch.arange(most, device=loss.device)
    chosen = (rank < num_negatives[:, None]) & (hardest_loss != -torch.inf)  # NaN is chosen
    return torch.zeros_like(loss, dtype=torch.bool).scatter_(1, hardest, chosen)
