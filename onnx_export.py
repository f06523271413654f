#!/usr/bin/env python3
"""Export a detector for NVIDIA's detectNet: the command line of jetson-inference's onnx_export.py.

    python onnx_export.py --model-dir runs/coco
    python onnx_export.py --net mb2-ssd-lite --model-dir models/fruit
    python onnx_export.py --net mb2-ssd-lite --input fruit/mb2-ssd-lite-Epoch-99-Loss-2.4.pth \\
        --labels fruit/labels.txt --output fruit/fruit.onnx --resolution 512

It is export_ssd.py with the target jetson. Without --input it takes the run of --model-dir, or of
its files NET-Epoch-E-Loss-L.pth that with the lowest loss. It takes the flags of export_ssd.py,
too.
"""

import argparse
import re
from functools import partial
from pathlib import Path

import export_ssd
from vision.command_line import FamilyParser, run_script
from vision.engine.machine_limits import explain
from vision.ssd.models import MODELS

LOSS_IN_NAME = re.compile(r"-Loss-(\d+(?:\.\d+)?)\.pth$")


def main(argv: list[str] | None = None) -> int:
    """Turn the family's flags into export_ssd.py's, and export."""
    parser = build_parser()
    args, further = parser.parse_known_args(argv)
    if args.batch_size != 1:
        parser.error("--batch-size must be 1: detectNet gives the network one image at a time")
    if (args.width is None) != (args.height is None):
        parser.error("--width and --height go together")
    if args.output and Path(args.output).suffix != ".onnx":
        parser.error("--output must end in .onnx: detectNet knows the kind of a file by its name")
    return run_script(partial(run, args, further), explain=explain)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the family's flags."""
    parser = FamilyParser(
        prog="onnx_export.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--net", choices=tuple(MODELS), help="network, for a bare state dict")
    add("--input", metavar="FILE", help="trained model; default: the best one in --model-dir")
    add("--output", metavar="FILE", help="default: NET-jetson.onnx in --model-dir/export")
    add("--labels", metavar="FILE", help="class names; default: labels.txt beside the model")
    add("--width", type=int, metavar="N", help="input in pixels")
    add("--height", type=int, metavar="N", help="input in pixels")
    add("--resolution", metavar="SIZE", help="input in pixels; default: as trained")
    add("--batch-size", type=int, default=1, metavar="N", help="images at a time: 1")
    add("--model-dir", default=".", metavar="DIR", help="run folder, or folder of .pth files")
    return parser


def run(args: argparse.Namespace, further: list[str]) -> int:
    """Find the model and export it; return the exit code."""
    size = f"{args.height}x{args.width}" if args.height else args.resolution
    output = Path(args.output) if args.output else None
    flags = {
        "--trained-model": find_model(Path(args.model_dir), args.input),
        "--net": args.net,
        "--label-file": args.labels,
        "--image-size": size,
        "--output-dir": output and output.parent,
    }
    given = [f"{flag}={value}" for flag, value in flags.items() if value is not None]
    parser = export_ssd.build_export_parser()
    export_args = parser.parse_args([*given, "--target=jetson", *further])
    export_ssd.check_arguments(parser, export_args)
    return export_ssd.run(export_args, name=output and output.name)


def find_model(folder: Path, name: str | None) -> Path:
    """Find the model that is meant.

    Args:
        folder: --model-dir.
        name: --input, from here or from `folder`.

    Raises:
        ValueError: it is not there; says what was looked for.
    """
    if name is not None:
        found = [path for path in (Path(name), folder / name) if path.exists()]
        if not found:
            raise ValueError(f"{name}: no such file, here or in {folder}")
        return found[0]
    if (folder / "config.json").is_file():
        return folder
    losses = {
        path: float(match[1])
        for path in sorted(folder.glob("*.pth"))
        if (match := LOSS_IN_NAME.search(path.name))
    }
    if not losses:
        raise ValueError(
            f"{folder}: neither a run (config.json) nor a file NET-Epoch-E-Loss-L.pth in it; "
            "say which model with --input FILE or --model-dir DIR"
        )
    return min(losses, key=losses.get)


if __name__ == "__main__":
    raise SystemExit(main())
