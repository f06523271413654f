"""The doctor's findings as lines for a terminal."""

from vision.doctor.check import CheckedData, Finding
from vision.doctor.suggest import Coverage, box_shapes

Flags = list[tuple[str, str]]


def text_lines(
    root: str,
    data: CheckedData,
    coverage: list[Coverage],
    flags: Flags,
    *,
    image_size: tuple[int, int],
) -> list[str]:
    """What was found, in at most a screenful or two."""
    lines = [summary(root, data), "", *finding_lines(data.findings), ""]
    for name, shapes in box_shapes(data, image_size).items():
        sizes, ratios = shapes["sizes"], shapes["aspect_ratios"]
        lines.append(
            f"{name} boxes at {image_size[1]}x{image_size[0]}: half are under "
            f"{sizes['50%']:.0f} px, a twentieth under {sizes['5%']:.0f} px; width over height "
            f"mostly {ratios['5%']:.2g} to {ratios['95%']:.2g}"
        )
    for item in coverage:
        lines.append(
            f"{item.network}: its own priors fit {item.own:.2f} of the training boxes, fitted ones "
            f"{item.fitted:.2f} (mean of the classes)"
        )
    worst = sorted(coverage[0].by_class.items(), key=lambda pair: max(pair[1]))[:5]
    lines += [f"  {name}: {own:.2f}, fitted {fitted:.2f}" for name, (own, fitted) in worst]
    lines += ["", "flags for train_ssd.py:"] if flags else []
    return lines + [f"  {flag}  ({reason})" for flag, reason in flags]


def finding_lines(findings: list[Finding]) -> list[str]:
    """The findings, what is wrong first, each with its remedy."""
    if not findings:
        return ["nothing wrong was found"]
    lines = []
    for finding in findings:
        mark = "WRONG" if finding.is_wrong else "note "
        lines.append(f"{mark} {finding.count} {finding.what}; {finding.remedy}")
        lines += [f"        {example}" for example in finding.examples]
    return lines


def summary(root: str, data: CheckedData) -> str:
    """The splits and what is in them."""
    splits = ", ".join(
        f"{name} {len(source.index)} images with {int(source.index.trainable.sum())} boxes"
        for name, source in data.splits.items()
    )
    return f"{root}: {splits}; {len(data.class_names)} classes"
