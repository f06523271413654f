"""Box coding: hand-computed offsets, and the round trip."""

import math

import golden_facts
import torch

from vision.ops.box_coder import cxcywh_to_xyxy, decode_boxes, encode_boxes, xyxy_to_cxcywh

PRIOR = torch.tensor([[0.5, 0.5, 0.2, 0.4]])


def test_a_box_equal_to_its_prior_has_no_offsets():
    encoded = encode_boxes(cxcywh_to_xyxy(PRIOR), PRIOR)
    torch.testing.assert_close(encoded, torch.zeros(1, 4), atol=1e-6, rtol=0)


def test_offsets_by_hand():
    # Centre 0.1 right and 0.1 up, twice as wide, half as high.
    box = cxcywh_to_xyxy(torch.tensor([[0.6, 0.4, 0.4, 0.2]]))
    expected = [0.1 / 0.2 / 0.1, -0.1 / 0.4 / 0.1, math.log(2) / 0.2, -math.log(2) / 0.2]
    torch.testing.assert_close(encode_boxes(box, PRIOR), torch.tensor([expected]))


def test_round_trip_of_a_batch():
    generator = torch.Generator().manual_seed(0)
    priors = torch.rand(50, 4, generator=generator) * 0.5 + 0.1
    corners = torch.rand(3, 50, 2, 2, generator=generator).sort(dim=2).values
    boxes = corners.flatten(2) + torch.tensor([0, 0, 0.01, 0.01])
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, priors), priors), boxes)


def test_golden_boxes():
    output = golden_facts.output()
    decoded = decode_boxes(output.bbox_regression, golden_facts.priors())[output.has_box]
    torch.testing.assert_close(decoded, output.boxes, atol=1e-5, rtol=0)


def test_a_wild_size_offset_stays_finite():
    decoded = decode_boxes(torch.full((1, 4), 1e4), PRIOR)
    assert torch.isfinite(decoded).all()


def test_formats_are_inverse():
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.9]])
    torch.testing.assert_close(xyxy_to_cxcywh(boxes), torch.tensor([[0.3, 0.55, 0.4, 0.7]]))
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes)
