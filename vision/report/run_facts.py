"""What the report says of a run: its settings, and the commands that go on from it."""

import shlex
from pathlib import Path

import numpy as np

from vision.report.analysis import Analysis
from vision.report.dataset import SplitFacts
from vision.report.inputs import RunHistory
from vision.report.words import count_of, duration


def run_sentence(analysis: Analysis, history: RunHistory) -> str:
    """Say what was evaluated."""
    network = analysis.given.network
    sentence = network.name
    if network.num_parameters is not None:
        sentence += (
            f" with {network.num_parameters / 1e6:.2f} million parameters and "
            f"{network.num_views * network.macs / 1e6:.0f} million multiplications an image"
        )
    if not history.records:
        return f"{sentence}, evaluated from {analysis.given.weights}."
    ap = history.column("AP")
    if np.isnan(ap).all():
        return f"{sentence}, trained for {count_of(int(history.epochs[-1]), 'epoch')}."
    best = int(np.nanargmax(ap))
    return (
        f"{sentence}, trained for {history.epochs[-1]} of {history.arguments.get('epochs')} "
        f"epochs; the best AP came in epoch {history.epochs[best]}."
    )


def run_facts(
    analysis: Analysis, history: RunHistory, splits: dict[str, SplitFacts]
) -> list[tuple[str, str]]:
    """List settings and sizes by name."""
    given, arguments = analysis.given, history.arguments
    height, width = given.network.image_size
    tiles = given.network.tiles
    in_tiles = [
        ("tiles", f"{tiles}x{tiles} and the whole image: {given.network.num_views} passes an image")
    ] * (tiles > 1)
    facts = [
        ("weights", given.weights),
        ("network", f"{given.network.name}, {height}x{width}, {len(analysis.names)} classes"),
        *in_tiles,
    ]
    if given.network.num_parameters is not None:
        macs = given.network.num_views * given.network.macs
        facts += [
            ("parameters", f"{given.network.num_parameters:,}"),
            ("MACs", f"{macs:,} multiplications with an addition for one image"),
        ]
    if analysis.has_priors:
        facts.append(("priors", f"{len(given.network.priors_cxcywh):,}"))
    for name, split in splits.items():
        facts.append((name, f"{split.num_images:,} images, {len(split.labels):,} boxes"))
    how = f"scores above {given.score_threshold:g}, overlap up to {given.iou_threshold:g}"
    if given.voting_iou:
        how += f", box voting from IoU {given.voting_iou:g} on"
    facts.append(("detections", f"{len(given.detections):,}, {how}"))
    if history.records:
        training, validation = (
            np.nansum(history.column(name)) for name in ("seconds", "eval_seconds")
        )
        facts.append(("time", f"{duration(training)} training, {duration(validation)} validation"))
    if arguments:
        shown = ("epochs", "batch_size", "optimizer", "lr", "scheduler", "augmentation", "base_net",
                 "pretrained_ssd", "ema", "seed")  # fmt: skip
        set_ones = [name for name in shown if arguments.get(name) not in (None, False, "none")]
        parts = [f"{name.replace('_', ' ')} {arguments[name]}" for name in set_ones]
        facts.append(("recipe", ", ".join(parts)))
    for name in ("machine", "versions"):
        if history.config.get(name):
            parts = [f"{key} {value}" for key, value in history.config[name].items()]
            facts.append((name, ", ".join(parts)))
    return facts


def run_commands(analysis: Analysis, history: RunHistory) -> list[tuple[str, str]]:
    """List the commands that made this, and that go on from it, with this run's paths."""
    given = analysis.given
    commands = []
    if given.command:
        commands.append(("This was made by", shlex.join(given.command)))
    if history.arguments:
        commands.append(("The same training again", training_command(history)))
    if history.folder is not None and history.records:
        run, epochs = shlex.quote(str(history.folder)), history.arguments.get("epochs") or 0
        done = history.records[-1]["epoch"]
        more = "" if done < epochs else f" --epochs {epochs + 10}"
        commands.append(("Go on with the training", f"./train_ssd.py --resume {run}{more}"))
    weights = shlex.join([given.weights, *given.weights_flags])
    data = [list(map(str, flags)) for flags in given.dataset_flags]
    data = data or [["--dataset", given.dataset]]
    if "eval_ssd" not in "".join(given.command[:1]):
        title = "Evaluate it"
        if len(data) > 1:
            title += f", on one of the {len(data)} data sets at a time"
        folders = [Path(given.weights) / f"eval{i if len(data) > 1 else ''}"
                   for i in range(1, len(data) + 1)]  # fmt: skip
        commands.append((title, "\n".join(
            f"./eval_ssd.py --trained-model {weights} {shlex.join(flags)} --split {given.split} "
            f"--output-dir {shlex.quote(str(folder))}"
            for flags, folder in zip(data, folders, strict=True)
        )))  # fmt: skip
    if given.network.num_parameters is not None:  # else it is an exported file
        measured = f" {shlex.join(data[0])} --split {given.split}" if _can_export_on(data) else ""
        commands.append(
            ("Export it", f"./export_ssd.py --trained-model {weights} --target onnx{measured}")
        )
    commands.append(
        ("Use it", f"./run_ssd_example.py IMAGES --trained-model {weights} --score-threshold "
         f"{analysis.threshold:.4f} --output-dir pictures")
    )  # fmt: skip
    return commands


def _can_export_on(data: list[list[str]]) -> bool:
    """Whether export_ssd.py can read the data: it takes one folder, and its type."""
    return len(data) == 1 and {w for w in data[0] if w[:2] == "--"} <= {
        "--dataset", "--dataset-type",
    }  # fmt: skip


def training_command(history: RunHistory) -> str:
    """Write the command of a run from its arguments; RUN stands for a new folder."""
    words = ["./train_ssd.py"]
    for name, value in history.arguments.items():
        flag = "--" + name.replace("_", "-")
        if name == "image_size" and value:
            words += [flag, "x".join(map(str, value))]
        elif isinstance(value, bool):
            words += [flag] if value else []
        elif isinstance(value, list):
            words += [flag, *map(str, value)]
        elif value is not None:
            words += [flag, str(value)]
    return shlex.join([*words, "--checkpoint-folder", "RUN"])


def change_lines(history: RunHistory) -> list[str]:
    """Say what each resume changed."""
    lines = []
    for entry in history.resumes:
        changes = ", ".join(
            f"{name} {_short(before)} to {_short(now)}"
            for name, (before, now) in entry["changes"].items()
        )
        what = changes or "nothing changed"
        lines.append(f"after epoch {entry.get('epoch')}, step {entry.get('step')}: {what}")
    return lines


def _short(value: object) -> str:
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if key != "sha256"}
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
