"""The doctor's findings as one HTML page."""

from vision.doctor.check import CheckedData
from vision.doctor.lines import Flags, summary
from vision.doctor.odd import oddest
from vision.doctor.suggest import Coverage
from vision.report.data_figures import data_figures
from vision.report.dataset import describe_split
from vision.report.gallery import draw_pictures
from vision.report.inputs import describe_network
from vision.report.page import render_page
from vision.report.svg import Canvas
from vision.ssd.models import build_model


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
        headline=summary(root, data),
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
