#!/usr/bin/env python3
"""Detect objects in images, folders, videos, cameras or streams, and draw or write them down.

    python run_ssd_example.py --trained-model runs/coco --output-dir pictures photo.jpg photos/
    python run_ssd_example.py --trained-model runs/coco/export/mb2-ssd-lite-onnx.onnx \\
        --output-dir videos --track clip.mp4
    python run_ssd_example.py --trained-model runs/coco --json found.jsonl photos/ \\
        --score-threshold 0.5
    python run_ssd_example.py --trained-model torchvision --net ssdlite320-mb3-large \\
        --output-dir pictures photo.jpg

Writes photo_detections.jpg, clip_detections.mp4 and so on into --output-dir, lines of JSON with
--json and rows of CSV with --csv (`-` for the terminal). A file that cannot be read is named and
passed over; the exit code is then 1. For a camera: run_ssd_live_demo.py.
"""

from vision.installed import require

require("cv2", "numpy")

import argparse
import logging
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from vision.command_line import FamilyParser, check_shares, run_script
from vision.deploy.detect import MAX_TILES
from vision.deploy.detector import Detector
from vision.deploy.frames import ImageFiles, LiveStream, Source, VideoFile, open_sources
from vision.deploy.outputs import (
    Csv,
    JsonLines,
    Output,
    Pictures,
    Video,
    open_text,
    rows_of,
    rows_of_tracks,
    summary_of,
    unused_name,
)
from vision.deploy.tracker import IouTracker
from vision.files.printable import printable

logger = logging.getLogger(__name__)
SCORE_THRESHOLD = 0.3  # where neither the checkpoint nor the exported file recommends one
STATUS_SECONDS = 5.0  # between two lines about a video or a stream


def main(argv: list[str] | None = None) -> int:
    """Detect, draw and write; return the exit code."""
    args = parse(build_parser(), argv)
    return run_script(partial(run, args), explain=explain)


def explain(error: RuntimeError) -> str | None:
    """Say in one line what an error of torch's means; None for a bug."""
    if "torch" not in sys.modules:
        return None
    from vision.engine import machine_limits

    return machine_limits.explain(error)


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line; one that has nowhere to write to, say, is wrong usage."""
    args = parser.parse_args(argv)
    if not (args.output_dir or args.json or args.csv):
        parser.error("--output-dir DIR, --json FILE or --csv FILE is needed")
    check_shares(parser, args, "score_threshold", "iou_threshold", "box_voting")
    if args.tiles is not None and not 1 <= args.tiles <= MAX_TILES:
        parser.error(f"--tiles must be 1 to {MAX_TILES}")
    return args


def build_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = FamilyParser(
        prog="run_ssd_example.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE",
        help="images, folders of images, video files, cameras (0, /dev/video0), rtsp:// addresses",
    )  # fmt: skip
    add_detector_flags(parser)
    add_output_flags(parser)
    return parser


def add_detector_flags(parser: argparse.ArgumentParser) -> None:
    """Add what says which detector runs, and how."""
    add = parser.add_argument
    add("--trained-model", required=True, metavar="RUN_OR_FILE",
        help="run folder (its best checkpoint), checkpoint, family state dict, torchvision for its "
        "COCO weights of --net, or a file of export_ssd.py")  # fmt: skip
    add("--net", metavar="NAME", help="network, for a bare state dict or torchvision")
    add("--label-file", metavar="FILE", help="class names, for a bare state dict")
    add("--score-threshold", type=float, metavar="X",
        help="lowest score of a detection; default: for each class what the checkpoint or the "
        f"exported file recommends; a bare state dict: {SCORE_THRESHOLD} for all")  # fmt: skip
    add("--iou-threshold", type=float, metavar="X",
        help="overlap above which the lower-scored of two boxes of a class goes; default: the "
        "network's own; an exported file has its own inside")  # fmt: skip
    add(
        "--device",
        default="auto",
        help="auto, cpu, cuda, cuda:1, mps; an exported file runs on cpu",
    )
    add("--tiles", type=int, metavar="N",
        help="look at each image whole and in N x N overlapping tiles; default: as "
        "trained")  # fmt: skip
    add("--box-voting", type=float, metavar="IOU",
        help="move a detection to the mean of the boxes of its class with a higher IoU than this; "
        "0: do not; default: as trained; an exported file has its own inside")  # fmt: skip
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto",
        help="number format of a network in torch; auto: bf16 where the hardware "
        "has it")  # fmt: skip


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """Add what says where the detections go."""
    add = parser.add_argument
    add("--output-dir", metavar="DIR", help="gets pictures, and a video of a video or stream")
    add("--json", metavar="FILE", help="a line of JSON for each image or frame; - for the terminal")
    add("--csv", metavar="FILE", help="a row for each detection; - for the terminal")
    add("--track", action="store_true",
        help="videos and streams: number the objects, following them by the overlap of their "
        "boxes, as jetson-inference's detectNet does")  # fmt: skip
    add("--limit", type=int, default=0, metavar="N",
        help="first N images or frames of a source only; 0: all")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Go through the sources; return 1 if a file could not be read."""
    with ExitStack() as opened:
        sources = open_sources(args.sources)
        for source in sources:
            opened.callback(source.close)
        detector = load_detector(args)
        outputs: list[Output] = []
        for path, kind in ((args.json, JsonLines), (args.csv, Csv)):
            if path:
                outputs.append(kind(open_text(path)))
                opened.callback(outputs[-1].close)
        say = logger.info if "-" in (args.json, args.csv) else print
        names: set[str] = set()
        failed = [detect_in(source, detector, outputs, args, names, say) for source in sources]
    return 1 if any(failed) else 0


def load_detector(args: argparse.Namespace) -> Detector:
    """Load what --trained-model names."""
    return Detector.load(
        args.trained_model,
        threshold=args.score_threshold,
        default_threshold=SCORE_THRESHOLD,
        iou_threshold=args.iou_threshold,
        net=args.net,
        label_file=args.label_file,
        device=args.device,
        precision=args.precision,
        tiles=args.tiles,
        box_voting=args.box_voting,
    )


def detect_in(
    source: Source,
    detector: Detector,
    outputs: list[Output],
    args: argparse.Namespace,
    names: set[str],
    say: Callable[[str], None],
) -> int:
    """Detect in one source, and write; return how many of its files could not be read.

    Args:
        source: images, a video or a stream.
        detector: finds the objects.
        outputs: get each frame, besides the pictures and the video.
        args: of the command line.
        names: of the pictures and videos so far; changed in place.
        say: takes the lines for the user.
    """
    tracker = IouTracker() if args.track and not isinstance(source, ImageFiles) else None
    drawn: Pictures | Video | None = None
    if args.output_dir:
        drawn = open_drawn(source, Path(args.output_dir), names)
    num_failed = num_frames = num_found = 0
    begin = said = time.monotonic()
    rows: list[dict] = []
    try:
        for frame in source:
            if frame.error:
                print(f"error: {printable(frame.error)}", file=sys.stderr)
                num_failed += 1
                continue
            found = detector.predict(frame.pixels)
            rows = rows_of_tracks(tracker.update(found)) if tracker else rows_of(found)
            for output in [*outputs, drawn] if drawn else outputs:
                output.write(frame, rows)
            num_frames, num_found = num_frames + 1, num_found + len(rows)
            if isinstance(source, ImageFiles):
                where = f" -> {drawn.newest}" if drawn else ""
                say(printable(f"{frame.source}: {summary_of(rows)}{where}"))
            elif time.monotonic() - said > STATUS_SECONDS:
                said = time.monotonic()
                rate = num_frames / (said - begin)
                place = f"{frame.source}: frame {frame.number}, {rate:.1f} a second"
                say(printable(f"{place}: {summary_of(rows)}"))
            if args.limit and num_frames + num_failed >= args.limit:
                break
    finally:
        if drawn:
            drawn.close()
    if isinstance(source, (VideoFile, LiveStream)) and num_frames:
        rate = num_frames / (time.monotonic() - begin)
        where = f" -> {drawn.path}" if drawn else ""
        name = source.path if isinstance(source, VideoFile) else source.address
        counts = f"{num_frames} frames, {rate:.1f} a second, {num_found} detections"
        say(printable(f"{name}: {counts}{where}"))
    return num_failed


def open_drawn(source: Source, folder: Path, names: set[str]) -> Pictures | Video:
    """Return what draws a source's frames into a folder."""
    if isinstance(source, ImageFiles):
        return Pictures(folder, names)
    stem = source.path.stem if isinstance(source, VideoFile) else stem_of(source.address)
    name = unused_name(stem, ".mp4", names)
    return Video(folder / name, fps=source.fps, is_live=source.is_live)


def stem_of(address: str) -> str:
    """Return a file name for a camera or an address, without what may be a password."""
    place = address.split("://")[-1].split("@")[-1].split("?")[0]
    return "".join(c if c.isalnum() or c in "-." else "_" for c in f"camera_{place.strip('/')}")


if __name__ == "__main__":
    raise SystemExit(main())
