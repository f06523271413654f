"""torchvision's two SSDs: what torchvision computes, and which of their parameters are what."""

from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import vgg16
from torchvision.models.detection import ssd300_vgg16, ssdlite320_mobilenet_v3_large

from vision.engine.optim import build_optimizer, freeze
from vision.ops.box_coder import cxcywh_to_xyxy
from vision.runs.weights import load_base_net
from vision.ssd.models import MODELS, build_model
from vision.ssd.postprocess import postprocess
from vision.transforms.normalize import normalize_images

THEIRS = {"ssdlite320-mb3-large": ssdlite320_mobilenet_v3_large, "ssd300-vgg16": ssd300_vgg16}
LITE = "ssdlite320-mb3-large"
NUM_CLASSES = 5


class Pair:
    """torchvision's detector with random weights, ours with the same, and what both compute.

    Attributes:
        images: uint8 [B, 3, H, W] at the networks' input size, so that torchvision resizes nothing.
        inputs: what torchvision's own transform makes of them.
        theirs, ours: cls_logits and bbox_regression of `inputs`.
        detections: what torchvision's postprocess_detections makes of its outputs.
    """

    @torch.inference_mode()
    def __init__(self, name: str):
        torch.manual_seed(0)
        self.network, size = MODELS[name], MODELS[name].image_size
        self.detector = build_theirs(name)
        self.model = build_model(name, num_classes=NUM_CLASSES).eval()
        # One image where two take seconds; of broad patches, so that deep maps differ by place.
        coarse = torch.randint(256, (2 if name == LITE else 1, 3, 6, 6)).float()
        levels = nn.functional.interpolate(coarse, size, mode="bicubic")
        self.images = levels.clamp(0, 255).round().to(torch.uint8)
        transformed, _ = self.detector.transform([image / 255 for image in self.images])
        self.inputs = transformed.tensors
        maps = list(self.detector.backbone(self.inputs).values())
        spread_outputs(self.detector, maps)
        self.model.load_state_dict(self.detector.state_dict())
        self.anchors = self.detector.anchor_generator(transformed, maps)
        self.theirs = self.detector.head(maps)
        self.detections = self.detector.postprocess_detections(
            self.theirs, self.anchors, transformed.image_sizes
        )
        self.ours = self.model(self.inputs)


def build_theirs(name: str) -> nn.Module:
    """Make torchvision's detector with random weights.

    From torch's meta device, since its vgg16() draws 120 million weights that it throws away.
    """
    with torch.device("meta"):
        detector = THEIRS[name](weights=None, weights_backbone=None, num_classes=NUM_CLASSES)
    detector.to_empty(device="cpu").eval()
    for module in detector.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.reset_parameters()
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    if hasattr(detector.backbone, "scale_weight"):
        nn.init.uniform_(detector.backbone.scale_weight, 10, 20)
    return detector


def spread_outputs(detector: nn.Module, maps: list[Tensor]) -> None:
    """Scale the heads so that scores differ and none is rounded to 1: nothing is left to ties."""
    for scoring, spread in (
        (detector.head.classification_head, 2),
        (detector.head.regression_head, 1),
    ):
        for head, x in zip(scoring.module_list, maps, strict=True):
            last = [layer for layer in head.modules() if isinstance(layer, nn.Conv2d)][-1]
            last.weight.mul_(spread / head(x).std())


@pytest.fixture(scope="module", params=THEIRS)
def pair(request) -> Pair:
    return Pair(request.param)


# ---- equal to torchvision's own


def test_keys_are_torchvisions(pair):
    assert list(pair.model.state_dict()) == list(pair.detector.state_dict())


def test_logits_and_offsets_are_torchvisions(pair):
    for name, ours in zip(("cls_logits", "bbox_regression"), pair.ours, strict=True):
        theirs = pair.theirs[name]
        assert 0.5 < theirs.std() < 5
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_priors_are_torchvisions(pair):
    boxes = pair.anchors[0] / pair.model.image_size[0]
    ours = cxcywh_to_xyxy(pair.model.priors_cxcywh)
    torch.testing.assert_close(ours, boxes, atol=1e-6, rtol=0)


def test_normalization_is_torchvisions(pair):
    ours = normalize_images(pair.images, **vars(pair.network.normalization))
    scale = pair.inputs.abs().max()
    torch.testing.assert_close(ours / scale, pair.inputs / scale, atol=1e-6, rtol=0)


def test_settings_are_torchvisions(pair):
    detector = pair.detector
    assert asdict(pair.network.postprocessing) == {
        "score_threshold": detector.score_thresh,
        "iou_threshold": detector.nms_thresh,
        "candidates_per_class": detector.topk_candidates,
        "detections_per_image": detector.detections_per_img,
        "voting_iou": 0.0,
    }
    assert pair.network.image_size == detector.transform.fixed_size


def test_detections_are_torchvisions(pair):
    size = pair.model.image_size
    found = postprocess(
        *pair.ours,
        pair.model.priors_cxcywh,
        torch.tensor([size] * len(pair.images)),
        **asdict(pair.network.postprocessing),
    )
    for ours, theirs in zip(found, pair.detections, strict=True):
        assert len(theirs["scores"]) == pair.detector.detections_per_img
        assert torch.equal(ours["labels"], theirs["labels"])
        torch.testing.assert_close(ours["scores"], theirs["scores"], atol=1e-5, rtol=0)
        shares = ours["boxes"] / size[0], theirs["boxes"] / size[0]
        torch.testing.assert_close(*shares, atol=1e-5, rtol=0)


# ---- their parts


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        (LITE, ("backbone.features",)),
        ("ssd300-vgg16", ("backbone.features", *(f"backbone.extra.0.{i}" for i in (1, 3, 5)))),
    ],
)
def test_freezing(name, frozen):
    """The backbone is what an ImageNet file can fill: not SSD's fc6 and fc7, in extra.0.7."""
    model = build_model(name, num_classes=NUM_CLASSES)
    freeze(model, all_but_heads=False)
    rates = {"lr": 0.1, "base_net_lr": 0.01, "extra_layers_lr": None}
    assert [g["name"] for g in build_optimizer("sgd", model, **rates).param_groups] == [
        "extra_layers",
        "heads",
    ]
    names = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert names == {n for n, _ in model.named_parameters() if n.startswith(frozen)}
    freeze(model, all_but_heads=True)
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"head"}


def test_vgg16_fills_the_backbone(tmp_path):
    """The thirteen convolutions of torchvision's vgg16, in order."""
    with torch.device("meta"):
        names = vgg16().state_dict()
    weights = {n: torch.full(x.shape, float(i)) for i, (n, x) in enumerate(names.items())}
    weights = {n: x for n, x in weights.items() if n.startswith("features.")}
    torch.save(weights, tmp_path / "vgg16.pth")
    model = build_model("ssd300-vgg16", num_classes=NUM_CLASSES)
    report = load_base_net(model, str(tmp_path / "vgg16.pth"))
    assert len(report.loaded) == 26 and report.initialised == report.unused == []
    convolutions = [
        layer
        for layer in (*model.backbone.features, *model.backbone.extra[0])
        if isinstance(layer, nn.Conv2d)
    ]
    assert [layer.weight.unique().item() for layer in convolutions] == list(range(0, 26, 2))
    assert [layer.bias.unique().item() for layer in convolutions] == list(range(1, 27, 2))


def test_imagenet_is_refused_where_torchvision_has_none():
    with pytest.raises(ValueError, match=f"--base-net imagenet: torchvision has no .*{LITE}"):
        load_base_net(build_model(LITE, num_classes=3), "imagenet")
