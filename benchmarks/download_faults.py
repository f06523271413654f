"""Random sequences of network faults: no wrong file is accepted, and every download completes.

    python benchmarks/download_faults.py [--sequences 240] [--seed 0]

In each sequence a real server on loopback (tests/fault_server.py) serves a zip of 2.5 MB, with up
to twelve faults of tests/faults.py in random order, random ETag and date headers, with or without
ranges, and up to two changes of the file's content, half of them without a change of length.
`install` fetches and unpacks the zip with 1 to 4 connections; every third sequence runs in
processes that are killed by SIGKILL at random moments. Wanted: `install` succeeds and all files are
of one version of the zip, or it fails with a reason and no file has wrong bytes; and one more run
without faults succeeds. curl, wget and aria2c, where installed, get the same sequences with their
own retries and resume: how often do they exit with 0 and wrong bytes? (Only the zip's CRCs, which
they do not read, show the faults `flip`, `lie` and `other-length`.)
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fault_server import FaultServer  # noqa: E402
from faults import FAULTS  # noqa: E402

from vision.download.coco_archives import Archive  # noqa: E402
from vision.download.coco_install import install  # noqa: E402
from vision.download.unzip import check_contents  # noqa: E402

NAME = "val2017.zip"
ARCHIVE = Archive(f"zips/{NAME}", 2_500_000, 2_500_000, is_exact=False)
# `loop` and a Retry-After of a day end a fetch at once, so the rest of the sequence is not tested.
KINDS = sorted(set(FAULTS) - {"loop", "retry-after", "change"})
PROGRAM = """
import sys
from pathlib import Path
from vision.download import part_file
from vision.download.coco_archives import Archive
from vision.download.coco_install import install
part_file.SECONDS_BETWEEN_RECORDS = 0.02
archive = Archive(sys.argv[1], 2_500_000, 2_500_000, is_exact=False)
install(archive, Path(sys.argv[2]), base_url=sys.argv[3], connections=int(sys.argv[4]),
        timeout=0.4, retries=4, first_pause=0.01)
"""


def main() -> int:
    """Run each fault, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    seeds = range(args.seed, args.seed + args.sequences)
    peers = [name for name in PEERS if shutil.which(name)]
    totals = {name: Counter() for name in ("ours", *peers)}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(6) as pool:
        jobs = [(name, Path(folder) / f"{name}-{seed}", seed) for seed in seeds for name in totals]
        for (name, _, seed), outcome in zip(jobs, pool.map(_run, jobs), strict=True):
            totals[name][outcome] += 1
            if name == "ours" and outcome not in ("done, right", "failed with a reason"):
                print(f"seed {seed}: {outcome}")
    print(f"{args.sequences} sequences, {time.monotonic() - began:.0f} s")
    for name, counts in totals.items():
        print(f"{name:6} " + ", ".join(f"{what}: {n}" for what, n in sorted(counts.items())))
    wrong = {
        name: sum(n for what, n in counts.items() if what.startswith("done, WRONG"))
        for name, counts in totals.items()
    }
    print("exit 0 with wrong bytes: " + ", ".join(f"{n} {count}" for n, count in wrong.items()))
    return 1 if set(totals["ours"]) - {"done, right", "failed with a reason"} else 0


def _run(job: tuple[str, Path, int]) -> str:
    name, folder, seed = job
    generator = random.Random(seed)
    versions = _versions(folder, generator)
    with FaultServer(folder / "server") as server:
        server.validators = generator.choice(["etag", "etag", "weak", "date", "none"])
        server.ranges = generator.random() < 0.8
        server.versions["/" + ARCHIVE.path] = [data for data, _ in versions[1:]]
        server.faults = _faults(generator, num_changes=len(versions) - 1)
        if name == "ours":
            outcome = _ours(server, folder, versions, generator, with_kills=seed % 3 == 0)
        else:
            outcome = _peer(name, server, folder, versions)
    shutil.rmtree(folder)
    return outcome


def _versions(folder: Path, generator: random.Random) -> list[tuple[bytes, dict[str, bytes]]]:
    """Make one to three versions of the zip: (bytes of the zip, files in it)."""
    sizes = [generator.randrange(100, 200_000) for _ in range(25)]
    found = []
    for number in range(generator.choice([1, 2, 3])):
        if number and generator.random() < 0.5:
            sizes = [size + generator.randrange(50) for size in sizes]
        files = {f"val2017/{i:012}.jpg": generator.randbytes(s) for i, s in enumerate(sizes)}
        path = folder / "server" / ARCHIVE.path
        path = path if number == 0 else folder / "other.zip"
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in files.items():
                archive.writestr(zipfile.ZipInfo(member), data)
        found.append((path.read_bytes(), files))
    return found


def _faults(generator: random.Random, *, num_changes: int) -> list[str]:
    faults = ["change"] * num_changes
    for _ in range(generator.randrange(1, 13 - num_changes)):
        kind = generator.choice(KINDS)
        argument = generator.randrange(1_500_000)
        if kind == "status":
            argument = generator.choice([503, 500, 429, 408])
        elif kind in ("too-much", "other-length"):
            argument = 1 + argument % 1000
        elif kind == "416":
            argument = 0
        faults.append(f"{kind}:{argument}")
    generator.shuffle(faults)
    return faults


def _ours(server, folder: Path, versions, generator: random.Random, *, with_kills: bool) -> str:
    root = folder / "coco"
    root.mkdir()
    connections = generator.choice([1, 1, 2, 4])
    if with_kills:
        command = [sys.executable, "-c", PROGRAM, ARCHIVE.path, str(root), server.url]
        for _ in range(generator.randrange(1, 4)):
            process = subprocess.Popen(
                [*command, str(connections)], cwd=ROOT, stderr=subprocess.DEVNULL
            )
            try:
                process.wait(generator.uniform(0.2, 0.8))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if not _is_of_versions(root, versions):
                return "a WRONG file after a kill"
    outcome = "failed with a reason"
    settings = {"base_url": server.url, "connections": connections, "timeout": 0.4}
    try:
        install(ARCHIVE, root, **settings, retries=4, first_pause=0.01)
        outcome = "done, right" if _is_one_version(root, versions) else "done, WRONG"
    except (OSError, ValueError):
        if not _is_of_versions(root, versions):
            return "failed with a WRONG file"
    server.faults = []
    install(ARCHIVE, root, **settings, retries=0)
    return outcome if _is_one_version(root, versions) else "not whole after a last good run"


def _on_disk(root: Path) -> dict[str, bytes]:
    paths = root.rglob("*.jpg")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def _is_one_version(root: Path, versions) -> bool:
    return any(_on_disk(root) == files for _, files in versions)


def _is_of_versions(root: Path, versions) -> bool:
    found = _on_disk(root).items()
    return all(any(files[name] == data for _, files in versions) for name, data in found)


PEERS = {
    "curl": "curl -s -f -L -C - --retry 6 --retry-delay 1 --retry-all-errors "
    "--speed-limit 16000 --speed-time 1 -o {path} {url}",
    "wget": "wget -q -c -t 6 -T 1 --waitretry=1 --retry-connrefused "
    "--retry-on-http-error=503,500,429,408 -O {path} {url}",
    "aria2c": "aria2c -q -c -x4 -s4 -k1M -m6 --retry-wait=1 -t1 --connect-timeout=1 "
    "--lowest-speed-limit=16K -d {folder} -o peer.zip {url}",
}


def _peer(name: str, server: FaultServer, folder: Path, versions) -> str:
    path = folder / "peer.zip"
    url = f"{server.url}/{ARCHIVE.path}"
    command = PEERS[name].format(path=path, folder=folder, url=url).split()
    try:
        status = subprocess.run(command, capture_output=True, timeout=60).returncode
    except subprocess.TimeoutExpired:
        return "hung for a minute"
    if status:
        return "failed with a reason"
    data = path.read_bytes() if path.exists() else b""
    if any(data == zipped for zipped, _ in versions):
        return "done, right"
    try:
        check_contents(path)
    except (OSError, ValueError):
        return "done, WRONG but unzip -t would tell"
    return "done, WRONG"


if __name__ == "__main__":
    raise SystemExit(main())
