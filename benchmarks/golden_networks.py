"""Largest differences of our networks from pytorch-ssd's and torchvision's, on the same weights.

    python benchmarks/golden_networks.py

The seven networks of pytorch-ssd: against what the original gave for weights and images by a recipe
(tests/golden/networks), over the largest value. torchvision's two: against torchvision itself, with
random weights. The tests check both; this prints by how much they pass.
"""

import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
import test_family_networks as family  # noqa: E402
import test_torchvision_networks as torchvision_tests  # noqa: E402
import torch  # noqa: E402

from vision.ssd.models import build_model  # noqa: E402
from vision.ssd.postprocess import postprocess  # noqa: E402


@torch.inference_mode()
def family_row(name: str) -> str:
    """Return the row of one of pytorch-ssd's networks."""
    model = build_model(name, num_classes=5, image_size=(300, 300)).eval()
    keys = {key: list(x.shape) for key, x in model.state_dict().items()}
    model.load_state_dict(family.recipe_weights(family.KEYS[name]))
    golden = np.load(family.GOLDEN / f"{name}.npz")
    priors = np.load(family.GOLDEN / "priors.npz")[family.PRIORS.get(name, "mobilenet")]
    mean, std = map(torch.tensor, vars(model.network.normalization).values())
    images = ((family.golden_images() - mean) / std).permute(0, 3, 1, 2)
    logits, offsets = (output[:, torch.from_numpy(golden["rows"])] for output in model(images))
    return (
        f"| `{name}` | {'equal' if keys == family.KEYS[name] else 'NOT equal'} "
        f"| {family.within(model.priors_cxcywh, priors, 1):.1e} "
        f"| {family.within(logits, golden['cls_logits'], golden['logits_abs_max']):.1e} "
        f"| {family.within(offsets, golden['bbox_regression'], golden['offsets_abs_max']):.1e} |"
    )


@torch.inference_mode()
def torchvision_row(name: str) -> str:
    """Return the row of one of torchvision's detectors."""
    pair = torchvision_tests.Pair(name)
    differences = [
        (ours - pair.theirs[what]).abs().max().item()
        for what, ours in zip(("cls_logits", "bbox_regression"), pair.ours, strict=True)
    ]
    size = pair.model.image_size
    found = postprocess(
        *pair.ours,
        pair.model.priors_cxcywh,
        torch.tensor([size] * len(pair.images)),
        **asdict(pair.network.postprocessing),
    )
    for what in ("scores", "boxes"):
        pairs = zip(found, pair.detections, strict=True)
        differences.append(max((a[what] - b[what]).abs().max().item() for a, b in pairs))
    return f"| `{name}` | " + " | ".join(f"{difference:.1e}" for difference in differences) + " |"


def main() -> int:
    """Print both tables."""
    print("| network | keys | priors | logits | offsets |\n| --- | --- | --- | --- | --- |")
    for name in family.KEYS:
        print(family_row(name), flush=True)
    print("\n| network | logits | offsets | scores | boxes, px |\n| --- | --- | --- | --- | --- |")
    for name in torchvision_tests.THEIRS:
        print(torchvision_row(name), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
