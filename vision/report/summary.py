"""The few lines that a validation ends with on the terminal."""

from vision.report.analysis import Analysis
from vision.report.words import count_of, interval_text


def summary_lines(analysis: Analysis, *, report: str | None = None) -> list[str]:
    """Say in a few lines how good the model is and where it loses.

    Args:
        analysis: of the validation.
        report: path of report.html, named in the last line.
    """
    metrics = analysis.given.metrics
    if metrics["AP"] is None:
        return ["no AP: the images have no boxes to find"]
    images = count_of(analysis.num_images, "image")
    lines = [
        f"AP {metrics['AP']:.3f}{interval_text(analysis.intervals['AP'])}, "
        f"AP50 {metrics['AP50']:.3f}{interval_text(analysis.intervals['AP50'])} on "
        f"{images} with {count_of(analysis.num_boxes, 'box', 'boxes')}"
    ]
    worst = analysis.worst_classes(2)
    if len(analysis.names) > 1 and worst:
        per_class = analysis.intervals["per_class"]
        parts = [f"{name} {ap:.3f}{interval_text(per_class[name]['AP'])}" for name, ap in worst]
        lines.append("lowest AP: " + ", ".join(parts))
    losses = analysis.largest_losses()
    if losses:
        parts = [f"{kind} {gain:.3f} ({count})" for kind, gain, count in losses[:3]]
        lines.append("AP50 lost to: " + ", ".join(parts))
    if report:
        lines.append(f"report: {report}")
    return lines
