"""The doctor's findings for people: lines for a terminal, and one HTML page."""

from vision.doctor.check import CheckedData, Finding
from vision.doctor.odd import oddest
from vision.doctor.suggest import Coverage, box_shapes
from vision.report.data_figures import data_figures
from vision.report.dataset import describe_split
from vision.report.gallery import draw_pictures
from vision.report.inputs import describe_network
from vision.report.page import render_page
from vision.report.svg import Canvas
from vision.ssd.models import build_model

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
    lines = [_summary(root, data), "", *finding_lines(data.findings), ""]
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


def _summary(root: str, data: CheckedData) -> str:
    splits = ", ".join(
        f"{name} {len(source.index)} images with {int(source.index.trainable.sum())} boxes"
        for name, source in data.splits.items()
    )
    return f"{root}: {splits}; {len(data.class_names)} classes"


def build_page(
    root: str,
    data: CheckedData,
    coverage: list[Coverage],
    flags: Flags,
    *,
    image_size: tuple[int, int],
) -> str:
    """The whole page; pictures of the oddest images are in it."""
    model = build_model(
        coverage[0].network, num_classes=len(data.class_names) + 1, image_size=image_size
    )
    network = describe_network(model)
    chosen = [name for name in ("train", "val", "test") if name in data.splits][:2]
    chosen = chosen or list(data.splits)[:2]
    splits = {
        name: describe_split([data.splits[name]], data.class_names, network) for name in chosen
    }
    splits = {name: facts for name, facts in splits.items() if len(facts.labels)}
    sources = list(data.splits.values())
    return render_page(
        "doctor.html",
        title=f"Data set {root}",
        headline=_summary(root, data),
        findings=data.findings,
        flags=flags,
        coverage=coverage,
        image_size=image_size,
        classes=[
            (name, *(int(source.index.boxes_per_class()[k]) for source in sources),
             *coverage[0].by_class.get(name, (None, None)))
            for k, name in enumerate(data.class_names)
        ],
        split_names=list(data.splits),
        figures=data_figures(splits, data.class_names, network, Canvas()) if splits else [],
        pictures=draw_pictures(oddest(data), sources),
        footer="Made by check_dataset.py.",
    )  # fmt: skip
