"""mb2-ssd-lite-fpn: its maps, its path, and what it takes from an mb2-ssd-lite."""

import pytest
import torch
from small_networks import build_small
from torch.nn.functional import interpolate

from vision.runs.weights import load_pretrained_ssd
from vision.ssd.models import build_model
from vision.ssd.nets.mb2_ssd_lite_fpn import PyramidSSD


def test_a_map_at_stride_8():
    model = build_model("mb2-ssd-lite-fpn", num_classes=4)
    sizes = [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
    assert model.feature_map_sizes() == sizes
    assert len(model.priors_cxcywh) == 6 * sum(rows * columns for rows, columns in sizes)
    smallest = model.priors_cxcywh[: 38 * 38 * 6, 2:].prod(dim=1).sqrt().min() * 300
    assert smallest == pytest.approx(24, abs=0.1)


@torch.no_grad()
def test_finer_maps_get_what_coarser_ones_know():
    model = build_small("mb2-ssd-lite-fpn").eval()
    images = torch.randn(1, 3, *model.image_size, generator=torch.Generator().manual_seed(0))
    plain = super(PyramidSSD, model).feature_maps(images)
    maps = model.feature_maps(images)
    torch.testing.assert_close(maps[2], plain[2])
    coarse = plain[2]
    for k in (1, 0):
        coarse = plain[k] + interpolate(coarse, size=plain[k].shape[-2:], mode="nearest")
        torch.testing.assert_close(maps[k], coarse)
    for own, same in zip(maps[3:], plain[3:], strict=True):
        torch.testing.assert_close(own, same)


def test_it_starts_from_an_mb2_ssd_lite(tmp_path):
    torch.manual_seed(1)
    trained = build_small("mb2-ssd-lite", num_classes=3).state_dict()
    torch.save(trained, tmp_path / "trained.pth")
    (tmp_path / "labels.txt").write_text("BACKGROUND\ncat\ndog\n")
    model = build_small("mb2-ssd-lite-fpn", num_classes=3)
    report = load_pretrained_ssd(model, tmp_path / "trained.pth", class_names=["cat", "dog"])
    own = model.state_dict()
    for name in trained:
        if name.startswith(("base_net.", "extras.")):
            assert torch.equal(own[name], trained[name]), name
    for k in range(2, 6):  # the same maps: 5x5, 3x3, 2x2 and 1x1 at 300 px
        for part in ("classification_headers", "regression_headers"):
            last = "" if k == 5 else "3."
            old, new = (f"{part}.{i}.{last}weight" for i in (k, k + 1))
            assert torch.equal(own[new], trained[old]), new
    fresh = {name.split(".")[0] + "." + name.split(".")[1] for name in report.initialised}
    assert fresh == {
        *(f"source_layer_add_ons.{k}" for k in range(3)),
        *(f"{part}_headers.{k}" for part in ("classification", "regression") for k in range(3)),
    }
