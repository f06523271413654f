"""Non-maximum suppression and box voting as matrix products, for graphs of static shape.

The device's runtimes have no operator for it that all of them take: the output of ONNX's
NonMaxSuppression has another shape for each image, and TensorRT 8.2 lists it as experimental.
"""

import torch
from torch import Tensor, nn

# Even, see `GraphSuppression`. On the 87 val images of the blood cells, 400 boxes each, the network
# of pytorch-ssd and an mb2-ssd-lite-fpn have the same AP with 6, 8 and 12 rounds.
ROUNDS = 6


class GraphSuppression(nn.Module):
    """Greedy non-maximum suppression without loops over boxes.

    Box i stays exactly if no better box j of its class that overlaps it stays. Each round decides
    this again for all boxes at once from the answers of the round before: after n rounds every box
    is right that has less than n others before it in its chain (a box that is suppressed by one
    that would be suppressed by one ...). Beyond that, an even number of rounds leaves in what is
    not decided: a duplicate may stay, and no box that greedy suppression keeps is ever lost.

    Args:
        num_boxes: K.
        iou_threshold: a box goes when its IoU with a better one that stays is above this.
        voting_iou: boxes move to the mean of those of their class with a higher IoU, weighted by
            their scores, as in `vision.ops.box_voting`; 0: they stay where they are.
        rounds: even.
    """

    def __init__(
        self,
        num_boxes: int,
        *,
        iou_threshold: float,
        voting_iou: float = 0.0,
        rounds: int = ROUNDS,
    ):
        super().__init__()
        assert rounds % 2 == 0, rounds
        self.iou_threshold = iou_threshold
        self.voting_iou = voting_iou
        self.rounds = rounds
        self.register_buffer("place", torch.arange(num_boxes, dtype=torch.float32))
        self.register_buffer("everyone", torch.ones(1, 1, num_boxes))

    def forward(self, boxes: Tensor, labels: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Decide which boxes stay, and where.

        Args:
            boxes: xyxy in 0..1, float32 [B, K, 4], the best first.
            labels: [B, K]; boxes with different labels have no effect on each other.
            scores: float32 [B, K], weights in the voting; 0: none.

        Returns:
            float32 [B, K]: 1 for boxes that stay, 0 for the others. And the boxes [B, K, 4].
        """
        labels = labels.float()  # onnxruntime compares them in half the time of integers
        same_class = labels[:, :, None] == labels[:, None, :]
        intersection, areas = _intersection(boxes)
        is_better = self.place[:, None] < self.place[None]
        rivals = is_better & same_class & _overlap(intersection, areas, self.iou_threshold)
        rivals = rivals.float()
        keep = self.everyone
        for _ in range(self.rounds):
            keep = torch.relu(1 - keep @ rivals)  # [B, 1, K]
        if self.voting_iou:
            votes = same_class & _overlap(intersection, areas, self.voting_iou)
            weighted = torch.cat([boxes, torch.ones_like(boxes[..., :1])], dim=-1)
            sums = votes.float() @ (weighted * scores[..., None])  # [B, K, 5]
            total = sums[..., 4:]
            # Without votes, as of a box without area, it stays: total is 0, or a score at least.
            boxes = boxes + (sums[..., :4] - total * boxes) / total.clamp(min=1e-3)
        return keep[:, 0], boxes


def _intersection(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Intersections [B, K, K], 0 or less where there is none, and areas [B, K, 1]."""
    x1, y1, x2, y2 = boxes.split(1, dim=-1)  # [B, K, 1]

    def overlap(start: Tensor, end: Tensor) -> Tensor:
        """Overlaps of each pair on one axis, [B, K, K]; below 0 where there is a gap."""
        return torch.minimum(end, end.transpose(1, 2)) - torch.maximum(start, start.transpose(1, 2))

    # One side of the intersection may be below 0: each operation on K x K counts.
    return torch.relu(overlap(x1, x2)) * overlap(y1, y2), (x2 - x1) * (y2 - y1)


def _overlap(intersection: Tensor, areas: Tensor, iou_threshold: float) -> Tensor:
    """Bool [B, K, K]: pairs with an IoU above the threshold; without the division."""
    # The areas are those of union and intersection together, scaled before they become K x K.
    share = areas * (iou_threshold / (1 + iou_threshold))
    return intersection > share + share.transpose(1, 2)
