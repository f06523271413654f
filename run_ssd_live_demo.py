#!/usr/bin/env python3
"""Detect objects in a camera's or a stream's newest frames until Ctrl-C.

    python run_ssd_live_demo.py --trained-model runs/coco --output-dir recorded
    python run_ssd_live_demo.py --trained-model mb2-ssd-lite-onnx.onnx --track --json - \\
        rtsp://192.168.1.20:554/stream1

Without a source it takes the first camera. A stream that breaks off is opened again. Whatever time
the detector needs, it sees the newest frame; the ones in between are left out. Ctrl-C finishes the
files and ends with exit code 0. There is no window: OpenCV comes without one here; --output-dir
records a video.
"""

from vision.installed import require

require("cv2", "numpy")

import argparse
from functools import partial

from run_ssd_example import add_detector_flags, add_output_flags, explain, parse, run
from vision.command_line import FamilyParser, run_script


def main(argv: list[str] | None = None) -> int:
    """Detect until Ctrl-C; return the exit code."""
    args = parse(build_parser(), argv)
    code = run_script(partial(run, args), explain=explain)
    return 0 if code == 130 else code


def build_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = FamilyParser(
        prog="run_ssd_live_demo.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sources", nargs="*", default=["0"], metavar="SOURCE",
        help="a camera (0, /dev/video0) or an address (rtsp://...); default: camera 0",
    )  # fmt: skip
    add_detector_flags(parser)
    add_output_flags(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
