"""Loading untrusted .pt and .pth files: no code is run, and no tensor is larger than the file."""

import io
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from vision.files.guarded import regular_only
from vision.files.stand_ins import refuse_stand_in

MOST_BYTES = 1 << 33  # of a checkpoint, which is read whole; VGG16's with AdamW has 0.4 GB


def load_tensors(path: Path, content: bytes | None = None) -> object:
    """Load a .pt or .pth file with `weights_only=True`; all files are loaded by this function.

    Args:
        path: the file.
        content: its bytes, if they have been read already.

    Raises:
        ValueError: it is not a torch file, is damaged, has objects other than tensors, numbers,
            strings, lists and dicts, or would take more memory than it has bytes.
        OSError: it cannot be opened.
    """
    with _open(path) if content is None else io.BytesIO(content) as file:
        _check_is_no_text(path, file)
        _check_unpacked_size(path, file)
        loaded = _load(path, file)
    for name, tensor in find_tensors(loaded):
        _check_storage(f"{path}: the tensor {name}", tensor)
    return loaded


def _open(path: Path) -> BinaryIO:
    return open(path, "rb", opener=regular_only)


def _check_is_no_text(path: Path, file: BinaryIO) -> None:
    """Refuse what failed downloads leave under the name of weights: pages, pointers, nothing."""
    first = file.read(512)
    file.seek(0)
    refuse_stand_in(first, path)
    if first.lstrip().startswith(b"<?xml"):
        raise ValueError(f"{path}: an XML page, not weights; download the file itself")
    if not first:
        raise ValueError(f"{path}: the file is empty; download or save it again")


def _load(path: Path, file: BinaryIO) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about kinds of tensors that are refused below
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:  # torch seeks outside a file that was cut short
        raise ValueError(f"{path}: cut short, or not a torch file") from None
    except Exception as error:  # noqa: BLE001  damaged bytes make the unpickler raise any type
        text = str(error)
        if "weights_only" in text or "Weights only" in text:
            raise ValueError(
                f"{path}: refused, it holds Python objects that could run code on loading; "
                "save it again as a plain state dict"
            ) from None
        reason = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        raise ValueError(f"{path}: cannot be read as a torch file ({reason})") from None


def _check_unpacked_size(path: Path, file: BinaryIO) -> None:
    """Refuse a compressed zip, of which torch would unpack gigabytes; torch writes none."""
    num_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        unpacked = 0  # an older file, or a damaged one, which torch names
    file.seek(0)
    if unpacked > num_bytes:
        raise ValueError(
            f"{path}: refused, its {num_bytes:,} bytes are compressed and unpack to {unpacked:,}; "
            "save it again with torch.save"
        )


def find_tensors(loaded: object) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested containers, each with its key; every container once."""
    waiting, seen = [("", loaded)], set()
    while waiting:
        name, item = waiting.pop()
        if isinstance(item, Tensor):
            yield name, item
        elif isinstance(item, (dict, list, tuple, set)) and id(item) not in seen:
            seen.add(id(item))
            pairs = item.items() if isinstance(item, dict) else ((name, part) for part in item)
            waiting += [(str(key), part) for key, part in pairs]


def _check_storage(what: str, tensor: Tensor) -> None:
    """Refuse a tensor that is no plain array, or of which the file does not hold each number.

    `torch.zeros(1).expand(40_000_000_000)` is four bytes in a file; whatever is computed of it
    takes 160 GB.
    """
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ValueError(f"{what} is no plain array; save it as one")
    needed, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if needed > stored:
        raise ValueError(f"{what} has {needed:,} bytes, of which the file holds {stored:,}")
