"""Files are opened, read and moved in few places; each other one is named here with its reason.

The scripts and the package are walked. docs/ and benchmarks/ are for developers, and read their own
files; setup_coco is a shell script that only calls the scripts.
"""

import ast
import re
from collections import Counter

import pytest
from conftest import ROOT

# What reads or opens without looking: a pipe is waited for, a link followed, memory taken.
UNGUARDED = {
    "open", "io.open", "codecs.open", "os.open", "os.fdopen", "gzip.open", "bz2.open", "lzma.open",
    "tarfile.open", "fileinput.input", "read_text", "read_bytes", "write_text", "write_bytes",
    "touch", "tofile", "cv2.imread", "cv2.imreadmulti", "cv2.imwrite", "cv2.VideoCapture",
    "cv2.VideoWriter", "cv2.FileStorage", "PIL.Image.open", "numpy.load", "numpy.save",
    "numpy.savez", "numpy.savez_compressed", "numpy.fromfile", "numpy.memmap", "numpy.loadtxt",
    "numpy.genfromtxt", "numpy.savetxt", "torch.from_file", "onnx.load", "onnx.load_model",
    "onnx.save", "onnx.save_model", "openvino.save_model",
}  # fmt: skip
# What parses a whole text, however deep it is nested.
PARSERS = {
    "json.load", "json.loads", "msgspec.json.decode", "msgspec.json.Decoder", "yaml.load",
    "yaml.safe_load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "tomllib.load",
    "tomllib.loads", "configparser.ConfigParser", "xml.etree.ElementTree.parse",
    "xml.etree.ElementTree.fromstring", "xml.etree.ElementTree.iterparse", "torch.load",
    "torch.jit.load", "torch.export.load", "torch.hub.load", "pickle.load", "pickle.loads",
    "marshal.load", "marshal.loads", "shelve.open", "zipfile.ZipFile", "shutil.unpack_archive",
    "onnxruntime.InferenceSession", "InferenceSession", "read_model", "eval", "exec",
}  # fmt: skip
# What moves or removes a user's file, if its name is taken from elsewhere.
MOVERS = {
    "os.rename", "os.renames", "os.replace", "os.remove", "os.unlink", "os.rmdir", "os.removedirs",
    "os.truncate", "os.link", "os.symlink", "os.chmod", "os.chown", "rename", "unlink", "rmdir",
    "symlink_to", "hardlink_to", "link_to", "chmod", "extractall", "shutil.move", "shutil.rmtree",
    "shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copymode", "shutil.copytree",
    "shutil.copyfileobj", "move_to", "replace with one argument",
}  # fmt: skip
# What walks a folder and all in it: links can lead round and round.
WALKERS = {"os.walk", "os.fwalk", "rglob", "walk", "glob with **"}
# What asks a server, or starts a program.
OUTSIDE = {
    "requests.get", "requests.head", "requests.post", "requests.request", "requests.Session",
    "urllib.request.urlopen", "urllib.request.urlretrieve", "torch.hub.load_state_dict_from_url",
    "torch.hub.download_url_to_file", "socket.create_connection", "os.system", "os.popen",
    "subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call",
    "subprocess.check_output",
}  # fmt: skip
EXCEPTIONS = {
    "vision/files/guarded.py": ({"os.open"}, "the opener itself"),
    "vision/files/structured_text.py": ({"json.loads"}, "the parser itself"),
    "vision/files/limited_yaml.py": ({"yaml.load"}, "the parser itself"),
    "vision/files/atomic_file.py": (
        {"open", "os.open", "os.replace", "unlink", "shutil.copymode"},
        "a new name, and a folder to flush",
    ),
    "vision/files/available_memory.py": ({"read_text"}, "the kernel's own files"),
    "vision/standard_streams.py": ({"open", "os.open"}, "/dev/null"),
    "vision/datasets/coco_json.py": ({"msgspec.json.Decoder"}, "the parser itself"),
    "vision/datasets/coco_export.py": (
        {"msgspec.json.decode", "symlink_to"}, "only `info` is decoded; a new name"
    ),
    "vision/datasets/prelabel.py": ({"msgspec.json.decode"}, "into flat records"),
    "vision/datasets/coco_ids.py": ({"replace with one argument"}, "a method of its own"),
    "vision/datasets/image_cache.py": ({"os.fdopen"}, "memory, and a file without a name"),
    "vision/datasets/image_headers.py": ({"PIL.Image.open"}, "a stream that is open"),
    "vision/datasets/image_list.py": ({"os.walk"}, "the walker itself: each folder once"),
    "vision/datasets/voc_folder.py": ({"rglob"}, "which follows no links"),
    "vision/datasets/voc_xml.py": (
        {"xml.etree.ElementTree.fromstring"}, "the parser itself; expat bounds the entities"
    ),
    "vision/deploy/detect.py": (
        {
            "read_bytes", "json.loads", "PIL.Image.open", "InferenceSession", "read_model",
            "os.open",
        },
        "a script that is copied to devices alone; os.open of /dev/null",
    ),
    "vision/deploy/device_script.py": ({"read_text"}, "the toolkit's own file"),
    "vision/deploy/frames.py": ({"cv2.VideoCapture"}, "a regular file, a camera or a stream"),
    "vision/deploy/openvino_file.py": (
        {"openvino.save_model"}, "a new folder of its own"
    ),
    "vision/deploy/outputs.py": (
        {"open", "cv2.VideoWriter", "replace with one argument"},
        "what the user names on the command line, also /dev/stdout; a video's own name",
    ),
    "vision/deploy/quantize.py": (
        {"onnx.save_model", "onnxruntime.InferenceSession"}, "the toolkit's own model"
    ),
    "vision/download/coco_install.py": (
        {"unlink", "replace with one argument"}, "a zip that it fetched"
    ),
    "vision/download/open_images.py": ({"unlink"}, "an image that it fetched"),
    "vision/download/part_file.py": ({"os.replace", "unlink"}, "names of its own"),
    "vision/download/unzip.py": (
        {"open", "os.replace", "unlink", "zipfile.ZipFile"},
        "new files under names that _check_names has seen; the zip is opened by regular_only",
    ),
    "vision/download/watched_session.py": ({"requests.Session"}, "the session with deadlines"),
    "vision/engine/profile.py": ({"read_bytes", "unlink"}, "a new name of its own"),
    "vision/repair/coco_rewrite.py": (
        {
            "msgspec.json.decode", "msgspec.json.Decoder", "os.link", "replace with one argument"
        },
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
        {"os.rename", "unlink", "rmdir"}, "names that is_below has seen"
    ),
}  # fmt: skip


NAMES = UNGUARDED | PARSERS | MOVERS | WALKERS | OUTSIDE
BUILT_IN = {"open", "eval", "exec"}
METHODS = {name for name in NAMES if "." not in name and " " not in name} - BUILT_IN
_MODE = re.compile("[rwaxbt+]*")


def doors_of(text: str) -> Counter:
    """Count where a module opens, parses, moves, walks or asks, under whatever name it imports."""
    module = ast.parse(text)
    names, found = _imported_names(module), Counter()
    guarded = {
        node.func
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and any(k.arg == "opener" for k in node.keywords)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and not _full_name(node.func, names):
            found.update(filter(None, [_method_of(node)]))
        elif isinstance(node, (ast.Name, ast.Attribute)) and node not in guarded:
            name = _full_name(node, names)
            if name in NAMES - METHODS and isinstance(node.ctx, ast.Load):
                found[name] += 1
        elif isinstance(node, ast.ImportFrom) and any(a.name == "*" for a in node.names):
            found["import *"] += 1
    return found


def _imported_names(module: ast.Module) -> dict[str, str]:
    """{name in the module: what it stands for}."""
    names = {name: name for name in BUILT_IN}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for a in node.names:
                first = a.name.split(".")[0]
                names[a.asname or first] = a.name if a.asname else first
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def _full_name(node: ast.expr, names: dict[str, str]) -> str:
    """`np.load` as numpy.load; of what is no imported name an empty text."""
    first, _, rest = ast.unparse(node).partition(".")
    return ".".join(filter(None, [names[first], rest])) if first in names else ""


def _method_of(call: ast.Call) -> str | None:
    """The name of a method of a path or an array, which is told by its name and its arguments."""
    if not isinstance(call.func, ast.Attribute):
        return None
    name, first = call.func.attr, call.args[0] if call.args else None
    text = first.value if isinstance(first, ast.Constant) else None
    if name == "open" and not any(k.arg == "opener" for k in call.keywords):
        # Layouts, archives and sessions have an open() too, with a name.
        has_mode = isinstance(text, str) and _MODE.fullmatch(text)
        return "open" if has_mode or not call.args else None
    if name == "replace" and len(call.args) == 1 and not call.keywords:  # of a text it has two
        return "replace with one argument"
    if name == "glob" and (not isinstance(text, str) or "**" in text):
        return "glob with **" if isinstance(text, str) else None
    return name if name in METHODS else None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("open(a)", "open"),
        ("open(a, opener=b)", None),
        ("from pathlib import Path; Path(a).open()", "open"),
        ("path.open('rb')", "open"),
        ("path.open(mode='w')", "open"),
        ("folder.open('val'); archive.open(name)", None),
        ("Path(a).read_text()", "read_text"),
        ("a.b.unlink()", "unlink"),
        ("a.replace(b)", "replace with one argument"),
        ("'a'.replace('b', 'c')", None),
        ("import os; os.replace(a, b)", "os.replace"),
        ("from shutil import move; move(a, b)", "shutil.move"),
        ("from shutil import move as put; put(a, b)", "shutil.move"),
        ("import shutil as s; s.rmtree(a)", "shutil.rmtree"),
        ("from json import loads; list(map(loads, a))", "json.loads"),
        ("import json; read = json.loads", "json.loads"),
        ("loads(a)", None),
        ("import numpy as np; np.load(a)", "numpy.load"),
        ("from PIL import Image; Image.open(a)", "PIL.Image.open"),
        ("from xml.etree import ElementTree as E; E.parse(a)", "xml.etree.ElementTree.parse"),
        ("import os; [n for n in os.walk(a)]", "os.walk"),
        ("a.glob('**/x')", "glob with **"),
        ("a.glob('*.json')", None),
        ("from os import *", "import *"),
        ("import subprocess as s; s.run(a)", "subprocess.run"),
    ],
)
def test_doors_are_found(text, found):
    assert doors_of(text) == Counter([found] if found else [])


SOURCES = sorted([*ROOT.glob("*.py"), *(ROOT / "vision").rglob("*.py")])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_are_opened_in_few_places(path):
    allowed, _ = EXCEPTIONS.get(path.relative_to(ROOT).as_posix(), (set(), ""))
    found = doors_of(path.read_text(encoding="utf-8")).keys()
    assert found == allowed, "use vision/files, or name the exception and its reason here"


def test_every_exception_is_of_a_file_that_is_there():
    assert EXCEPTIONS.keys() <= {path.relative_to(ROOT).as_posix() for path in SOURCES}


def test_setup_coco_only_calls_the_scripts():
    """It neither moves nor fetches anything by itself."""
    text = (ROOT / "setup_coco").read_text()
    code = re.sub(r"(?s)cat <<'TEXT'.*?\nTEXT\n", "", text)
    code = re.sub(r"(?m)^#.*", "", code)
    words = set(re.findall(r"[\w.-]+", code))
    assert not words & {"mv", "cp", "rm", "ln", "tar", "unzip", "curl", "wget", "eval", "dd"}
    code = re.sub(r"\(\(.*?\)\)", "", code)  # arithmetic
    assert set(re.findall(r">+ *([^\s;]+)", code)) <= {"/dev/null", "&2", "&1"}
