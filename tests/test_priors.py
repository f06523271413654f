"""Priors: by hand, against the golden file, and against torchvision's generator."""

from math import sqrt

import golden_facts
import pytest
import torch
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from vision.ops.box_coder import cxcywh_to_xyxy
from vision.ops.priors import PriorMap, build_priors, growing_sizes
from vision.ssd.models import build_model


def test_one_cell_by_hand():
    priors = build_priors([(1, 1)], (100, 100), growing_sizes([0.2, 0.8], aspect_ratios=[[2]]))
    expected = [
        [0.5, 0.5, 0.2, 0.2],
        [0.5, 0.5, 0.4, 0.4],
        [0.5, 0.5, 0.2 * sqrt(2), 0.2 / sqrt(2)],
        [0.5, 0.5, 0.2 / sqrt(2), 0.2 * sqrt(2)],
    ]
    torch.testing.assert_close(priors, torch.tensor(expected))


def test_cells_go_row_by_row_with_square_priors_on_wide_images():
    squares = build_priors([(1, 2)], (100, 200), [PriorMap(((0.5, 0.5),))])
    torch.testing.assert_close(squares[:, 0], torch.tensor([0.25, 0.75]))
    # 50 px of 100 and of 200: square in pixels.
    torch.testing.assert_close(squares[0, 2:], torch.tensor([0.25, 0.5]))


def test_golden_priors():
    priors = build_model("mb2-ssd-lite", num_classes=4, image_size=(300, 300)).priors_cxcywh
    assert priors.shape == (3000, 4)
    torch.testing.assert_close(priors, golden_facts.priors(), atol=1e-6, rtol=0)


def test_mb2_ssd_has_torchvisions_default_boxes():
    model = build_model("mb2-ssd", num_classes=4, image_size=(320, 320))
    images = torch.zeros(1, 3, 320, 320)
    generator = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
    boxes = generator(ImageList(images, [(320, 320)]), model.eval().feature_maps(images))[0] / 320
    torch.testing.assert_close(cxcywh_to_xyxy(model.priors_cxcywh), boxes, atol=1e-6, rtol=0)


def test_maps_differ_in_number_of_shapes_and_in_stride():
    """Counts and order by hand: 2 x 2 cells of two shapes, then one cell of three."""
    maps = [PriorMap(((0.1, 0.2), (0.2, 0.1)), stride=40), PriorMap(((0.5, 0.5),) * 3)]
    priors = build_priors([(2, 2), (1, 1)], (100, 100), maps)
    assert priors.shape == (2 * 2 * 2 + 3, 4)
    cells = [[0.2, 0.2], [0.6, 0.2], [0.2, 0.6], [0.6, 0.6]]
    torch.testing.assert_close(priors[:8:2, :2], torch.tensor(cells))
    torch.testing.assert_close(priors[1:8:2, 2:], torch.tensor([[0.2, 0.1]] * 4))
    torch.testing.assert_close(priors[8:], torch.tensor([[0.5] * 4] * 3))


@pytest.mark.parametrize(("clamp", "last"), [(True, 1.0), (False, 1.25)])
def test_a_centre_beyond_the_edge_is_moved_onto_it_where_the_map_says_so(clamp, last):
    maps = [PriorMap(((0.5, 2.0),), stride=50, clamp_centers=clamp)]
    priors = build_priors([(3, 1)], (100, 100), maps)
    torch.testing.assert_close(priors[:, 1], torch.tensor([0.25, 0.75, last]))
    torch.testing.assert_close(priors[:, 2:], torch.tensor([[0.5, 1.0]] * 3))  # shapes always


@pytest.mark.parametrize("sizes", [(0.2, 0.3), (0.2, 0.1, 0.3, 0.4, 0.5, 0.6, 0.7)])
def test_bad_prior_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="give 7 growing shares"):
        growing_sizes(sizes, aspect_ratios=[(2, 3)] * 6)
