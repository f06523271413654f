"""Files are opened, read and moved in few places; each other one is named here with its reason."""

import ast
from collections import Counter

import pytest
from conftest import ROOT

# What reads or opens without looking: a pipe is waited for, a link followed, memory taken.
UNGUARDED = {
    "open", "os.open", "read_text", "read_bytes", "write_text", "write_bytes", "cv2.imread",
    "cv2.imwrite", "cv2.VideoWriter", "Image.open", "np.load", "np.save",
}  # fmt: skip
# What parses a whole text, however deep it is nested.
PARSERS = {
    "json.load", "json.loads", "msgspec.json.decode", "msgspec.json.Decoder", "yaml.load",
    "yaml.safe_load", "torch.load", "pickle.load", "zipfile.ZipFile",
}  # fmt: skip
# What moves or removes a user's file, if its name is taken from elsewhere.
MOVERS = {
    "os.rename", "os.replace", "os.remove", "os.unlink", "os.link", "os.symlink", "rename",
    "unlink", "rmdir", "symlink_to", "hardlink_to", "extractall", "shutil.move", "shutil.rmtree",
    "shutil.copy", "shutil.copyfile", "shutil.copytree", "move_to",
}  # fmt: skip
REQUESTS = {"requests.get", "requests.head", "requests.post", "requests.Session", "urlopen"}
EXCEPTIONS = {
    "vision/files/guarded.py": ({"os.open"}, "the opener itself"),
    "vision/files/structured_text.py": ({"json.loads"}, "the parser itself"),
    "vision/files/limited_yaml.py": ({"yaml.load"}, "the parser itself"),
    "vision/files/atomic_file.py": (
        {"open", "os.open", "os.replace", "unlink"}, "a new name, and a folder to flush"
    ),
    "vision/files/available_memory.py": ({"read_text"}, "the kernel's own files"),
    "vision/standard_streams.py": ({"open", "os.open"}, "/dev/null"),
    "vision/datasets/coco_json.py": ({"msgspec.json.Decoder"}, "the parser itself"),
    "vision/datasets/coco_export.py": (
        {"msgspec.json.decode", "symlink_to"}, "only `info` is decoded; a new name"
    ),
    "vision/datasets/prelabel.py": ({"msgspec.json.decode"}, "into flat records"),
    "vision/datasets/image_headers.py": ({"Image.open"}, "a stream that is open"),
    "vision/datasets/jpeg.py": ({"Image.open"}, "bytes that are read"),
    "vision/deploy/detect.py": (
        {"read_bytes", "json.loads", "Image.open"}, "a script that is copied to devices alone"
    ),
    "vision/deploy/export.py": ({"read_bytes"}, "the toolkit's own file"),
    "vision/deploy/outputs.py": (
        {"open", "cv2.VideoWriter"}, "what the user names on the command line, also /dev/stdout"
    ),
    "vision/download/coco_install.py": ({"unlink"}, "a zip that it fetched"),
    "vision/download/open_images.py": ({"unlink"}, "an image that it fetched"),
    "vision/download/part_file.py": ({"os.replace", "unlink"}, "names of its own"),
    "vision/download/unzip.py": (
        {"open", "os.replace", "unlink", "zipfile.ZipFile"},
        "new files under names that _check_names has seen; the zip is opened by regular_only",
    ),
    "vision/engine/profile.py": ({"read_bytes", "unlink"}, "a new name of its own"),
    "vision/repair/coco_rewrite.py": (
        {"msgspec.json.decode", "msgspec.json.Decoder", "os.link"},
        "entries of a file that is parsed; a new name beside",
    ),
    "vision/report/page.py": ({"read_text"}, "the toolkit's own files"),
    "vision/runs/checkpoint.py": ({"os.replace", "os.link"}, "names of its own"),
    "vision/runs/checkpoint_writer.py": ({"unlink"}, "checkpoints of the run"),
    "vision/runs/run_folder.py": ({"os.replace"}, "checkpoints of the run, into a new folder"),
    "vision/runs/tensor_files.py": (
        {"torch.load", "zipfile.ZipFile"}, "the loader itself; the file is opened by regular_only"
    ),
    "vision/validate/quarantine.py": (
        {"os.rename", "unlink", "rmdir"}, "names that is_inside has seen"
    ),
}  # fmt: skip


NAMES = UNGUARDED | PARSERS | MOVERS | REQUESTS
METHODS = {name for name in NAMES if "." not in name} - {"open", "urlopen"}


def calls_of(text: str) -> Counter:
    """Count the calls in a module that open, parse, move or fetch, by name."""
    found = Counter()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or any(k.arg == "opener" for k in node.keywords):
            continue
        name = ast.unparse(node.func)
        if name in NAMES - METHODS:
            found[name] += 1
        elif isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            found[node.func.attr] += 1
    return found


def test_calls_are_found():
    text = (
        "open(a, opener=b); open(a); folder.open('val'); Path(a).read_text(); a.b.unlink();"
        "json.loads(a); loads(a); os.replace(a, b); 'a'.replace('b', 'c')"
    )
    assert calls_of(text) == {
        "open": 1, "read_text": 1, "unlink": 1, "json.loads": 1, "os.replace": 1
    }  # fmt: skip


SOURCES = sorted([*ROOT.glob("*.py"), *(ROOT / "vision").rglob("*.py")])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_are_opened_in_few_places(path):
    allowed, _ = EXCEPTIONS.get(path.relative_to(ROOT).as_posix(), (set(), ""))
    found = calls_of(path.read_text(encoding="utf-8")).keys()
    assert found == allowed, "use vision/files, or name the exception and its reason here"


def test_every_exception_is_of_a_file_that_is_there():
    assert EXCEPTIONS.keys() <= {path.relative_to(ROOT).as_posix() for path in SOURCES}
