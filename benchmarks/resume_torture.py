"""Kills a training at random moments and resumes it until it is done, then compares the result with
that of an undisturbed training, bit by bit.

    python benchmarks/resume_torture.py --rounds 50

A round is one training on the sample data set. Each of its processes is killed by SIGKILL after a
random part of the time that the whole training takes, and has a random number of workers; every
second step is saved. The last line is the number of rounds with another result.
"""

import argparse
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from resume_runs import differences  # noqa: E402
from trainer_host import PHASES, TrainerHost  # noqa: E402

from vision.datasets.sample import write_sample_dataset  # noqa: E402
from vision.runs.checkpoint import find_newest, list_checkpoints  # noqa: E402

EPOCHS = 3
RECIPE = [
    *("--image-size=96", "--mb2-width-mult=0.25", f"--epochs={EPOCHS}", "--batch-size=4"),
    *("--threads=1", "--precision=fp32", "--ema=0.9", "--checkpoint-every-steps=2"),
]
WORKERS = (0, 0, 1, 2)


def main(argv: list[str] | None = None) -> int:
    """Run the rounds and print the table; return 1 if a round had another result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=50, metavar="N")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="go on until so many")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    args = parser.parse_args(argv)
    chance = random.Random(args.seed)
    kills: Counter[str] = Counter()
    rounds = lost = 0
    bad: list[str] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torture = Torture(folder)
        while rounds < args.rounds or kills.total() < args.kills:
            run = folder / f"round_{rounds}"
            lost += torture.live_and_die(run, chance, kills)
            found = differences(run, torture.reference)
            bad += [f"round {rounds}: {line}" for line in found[:3]]
            rounds += 1
            shutil.rmtree(run)
            print(f"round {rounds}: {kills.total()} kills, {len(bad)} bad", file=sys.stderr)
        torture.host.close()
    print(f"| kills | {kills.total()} |\n| --- | --- |")
    for phase, count in kills.most_common():
        print(f"| {phase} | {count} |")
    print("\n".join(bad))
    print(f"rounds {rounds}, lost epochs {lost}, {time.monotonic() - start:.0f} s")
    print(f"{rounds} rounds with {kills.total()} kills, ended in other bits: {len(bad)}")
    return 1 if bad or lost else 0


class Torture:
    """The data, the undisturbed run and the process that trains."""

    def __init__(self, folder: Path):
        self.data, self.reference = folder / "data", folder / "reference"
        write_sample_dataset(self.data, num_train=16, num_val=24, image_size=(120, 160))
        self.host = TrainerHost(folder)
        self.marks = folder / "marks"
        self.marks.write_bytes(bytes(len(PHASES)))
        self.seconds = 0.0
        for _ in range(2):  # the second one with warm caches
            shutil.rmtree(self.reference, ignore_errors=True)
            start = time.monotonic()
            ended = self.host.run(*self.start_flags(self.reference))
            self.seconds = time.monotonic() - start
            assert ended.returncode == 0, ended.stderr

    def start_flags(self, run: Path) -> list[str]:
        """Return the flags of a new run."""
        return ["--datasets", str(self.data), *RECIPE, "--checkpoint-folder", str(run)]

    def live_and_die(self, run: Path, chance: random.Random, kills: Counter) -> int:
        """Train to the end through any number of kills; return the number of epochs lost."""
        lost, reached = 0, (0, 0)
        while True:
            is_begun = (run / "config.json").is_file()
            flags = ["--resume", str(run)] if is_begun else self.start_flags(run)
            pid = self.host.start(*flags, f"--workers={chance.choice(WORKERS)}", marks=self.marks)
            time.sleep(chance.uniform(0.02, self.seconds))
            os.kill(pid, signal.SIGKILL)  # a zombie, if it has ended: it is waited for below
            ended = self.host.wait(pid)
            if ended.returncode == 0:
                return lost
            assert ended.returncode == -signal.SIGKILL, ended.stderr
            kills[self.phase(run)] += 1
            now = reached
            if list_checkpoints(run):
                state = find_newest(run)[1]
                now = (state["epoch"], state["step"])
            lost += max(0, reached[0] - now[0])
            assert now >= reached, f"{run}: step {reached[1]} was on disk, {now[1]} is left"
            reached = now

    def phase(self, run: Path) -> str:
        """Say what the process was doing when it was killed."""
        with open(self.marks, "r+b") as file, mmap.mmap(file.fileno(), 0) as marks:
            under_way = [name for name, mark in zip(PHASES, marks[:], strict=True) if mark]
            marks[:] = bytes(len(PHASES))
        if under_way:
            return " while ".join(under_way)
        return "between steps" if (run / "config.json").is_file() else "starting"


if __name__ == "__main__":
    raise SystemExit(main())
