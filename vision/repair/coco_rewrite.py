"""Writing a repaired COCO annotation file; bytes that need no repair are copied unchanged."""

import filecmp
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from vision.datasets.coco_ids import MISSING_ID
from vision.datasets.coco_json import (
    SEPARATOR,
    CategoryRecord,
    CocoJson,
    ImageRecord,
    raw_spans,
)
from vision.datasets.coco_tables import Images
from vision.files.atomic_file import sync_folder, write_atomically
from vision.files.guarded import regular_only
from vision.repair.coco_repair import Repair

COPY_BYTES = 4 << 20
_CATEGORY_ID = re.compile(rb'("category_id"[ \t\r\n]*:[ \t\r\n]*)(-?\d+)(?=[ \t\r\n,}])')
# From this many changed entries in a part of the list (of about 2,000) on, all are written anew.
_MANY = 100
_Values = dict[str, bytes]
_decode_entries = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_encode = msgspec.json.Encoder().encode


def write_repair(repair: Repair) -> Path:
    """Replace the file by the repaired one, and return the path of the original.

    The original gets its second name first, then the file is replaced atomically. After a kill the
    next run does what is missing.

    Raises:
        OSError: the disk is full or not writable; the annotation file is unchanged.
    """
    path = Path(repair.document.path)
    original = _keep_original(path)
    write_atomically(path, repaired_text(repair))
    return original


def _keep_original(path: Path) -> Path:
    """Keep the file also as instances_train.original.json, and return that path.

    If an older original has that name, it is .original.2.json and so on.
    """
    for number in itertools.count(1):
        suffix = ".original.json" if number == 1 else f".original.{number}.json"
        original = path.with_name(path.stem + suffix)
        if not original.exists():
            break
        if os.path.samefile(path, original) or filecmp.cmp(path, original, shallow=False):
            return original  # an earlier run was interrupted here
    try:
        os.link(path, original)
    except OSError:  # a file system without hard links
        with open(path, "rb", opener=regular_only) as file:
            write_atomically(original, iter(lambda: file.read(COPY_BYTES), b""))
    sync_folder(path.parent)
    return original


def repaired_text(repair: Repair) -> Iterator[bytes]:
    """Yield the repaired file in pieces; what needs no repair is copied byte for byte."""
    document, position = repair.document, 0
    writers = {"categories": _category_pieces, "annotations": _annotation_pieces}
    if repair.changed_images.any():
        writers["images"] = _image_pieces
    keys = [key for key in document.spans if key in writers]
    for key in sorted(keys, key=document.spans.get):
        start, stop = document.spans[key]
        yield from _copy(document, position, start)
        position = yield from writers[key](repair, start)
        yield from _copy(document, position, stop)
        position = stop
    yield from _copy(document, position, len(document.source))


def _copy(document: CocoJson, start: int, stop: int) -> Iterator[bytes]:
    for position in range(start, stop, COPY_BYTES):
        end = min(position + COPY_BYTES, stop)
        yield document.source[position:end]
        document.forget_pages(position, end)


def _category_pieces(repair: Repair, start: int) -> Iterator[bytes]:
    """Yield the list of categories in its old order; return the byte after its last entry."""
    new_id, texts = repair.new_category_ids, repair.ids.categories
    position = start + 1
    yield b"["
    for first, stop, records in repair.document.chunks("categories", CategoryRecord):
        changes: list[_Values | None] = []
        for record, number in zip(records, texts.replace([r.id for r in records]), strict=True):
            original = number if record.original_id is None else record.original_id
            values = {"id": new_id[number], "original_id": original}
            changes.append({key: str(value).encode() for key, value in values.items()})
        yield b"".join(_rewritten(repair.document, (first, stop), changes))
        position = stop
    return position


def _image_pieces(repair: Repair, start: int) -> Iterator[bytes]:
    """Yield the list of images; return the byte after its last entry."""
    images, position, row = repair.images, start + 1, 0
    yield b"["
    for first, stop, records in repair.document.chunks("images", ImageRecord):
        changes = [_image_changes(images, i) for i in range(row, row + len(records))]
        yield b"".join(_rewritten(repair.document, (first, stop), changes))
        position, row = stop, row + len(records)
    return position


def _image_changes(images: Images, row: int) -> _Values:
    values: _Values = {}
    if images.has_text_id[row]:
        values["id"] = b"%d" % images.ids[row]
    if images.is_renamed[row]:
        values["file_name"] = msgspec.json.encode(images.names[row])
    if not images.has_size[row]:
        height, width = images.sizes[row]
        values |= {"height": b"%d" % height, "width": b"%d" % width}
    return values


def _annotation_pieces(repair: Repair, start: int) -> Iterator[bytes]:
    """Yield the list of annotations; return the byte after its last entry."""
    annotations, document = repair.annotations, repair.document
    changed = repair.drop | repair.set_area | repair.set_iscrowd | (repair.new_ids != MISSING_ID)
    changed |= annotations.has_text_id
    position, row, is_first = start, 0, True
    for first, stop, count in annotations.chunks:
        yield from _copy(document, position, first)  # the "[" before the first annotation
        text = _repaired_chunk(repair, (first, stop), slice(row, row + count), changed)
        if is_first:  # nothing is written yet: no comma before it
            text = SEPARATOR.sub(lambda found: found[0].replace(b",", b""), text, count=1)
        yield text
        is_first = is_first and not text.strip()
        document.forget_pages(first, stop)
        position, row = stop, row + count
    return position


def _repaired_chunk(
    repair: Repair, span: tuple[int, int], rows: slice, changed: np.ndarray
) -> bytes:
    """Repair a part of the list of annotations.

    Where nothing but category ids changes, the text is taken as a whole; where few entries change,
    the runs between them are; where many do, all entries are decoded and written anew at once, with
    other blanks between keys and values but the same values.
    """
    document, count = repair.document, int(changed[rows].sum())
    text = document.source[span[0] : span[1]]
    if not count and (renumbered := _renumbered(repair, text, rows)) is not None:
        return renumbered
    is_plain = document.parsed is document.source  # without NaN, which msgspec does not write
    if is_plain and count >= _MANY:
        return _rewritten_at_once(repair, text, rows)
    return b"".join(_rewritten_in_runs(repair, span, rows, changed))


def _rewritten_at_once(repair: Repair, text: bytes, rows: slice) -> bytes:
    """Decode all entries, change their values key by key, and write them anew."""
    first = SEPARATOR.match(text).end()
    entries = _decode_entries(b"[" + text[first:] + b"]")
    for key, values in _changed_columns(repair, rows):
        for entry, value in zip(entries, values, strict=True):
            if value is not None:
                entry[key] = value
    kept = [e for e, is_out in zip(entries, repair.drop[rows].tolist(), strict=True) if not is_out]
    separator = text[:first] if kept else b""
    return separator + _encode(kept)[1:-1] + text[len(text.rstrip()) :]


def _changed_columns(repair: Repair, rows: slice) -> Iterator[tuple[str, list[msgspec.Raw | None]]]:
    """Yield (key, the new values of some annotations, None where it stays) of the keys that change.

    It says the same as `_annotation_changes` for one annotation.
    """
    annotations = repair.annotations
    if repair.renumbers:
        new = {old: _number(number) for old, number in repair.new_category_ids.items()}
        yield "category_id", [new.get(old) for old in annotations.category_ids[rows].tolist()]
    is_text, new_ids = annotations.has_text_id[rows], repair.new_ids[rows]
    is_new = new_ids != MISSING_ID
    if is_text.any():
        yield "image_id", _numbers(annotations.image_ids[rows], is_text)
    if is_text.any() or is_new.any():
        yield "id", _numbers(np.where(is_new, new_ids, annotations.ids[rows]), is_text | is_new)
    if repair.set_area[rows].any():
        areas = (annotations.boxes_xywh[rows, 2] * annotations.boxes_xywh[rows, 3]).tolist()
        pairs = zip(areas, repair.set_area[rows].tolist(), strict=True)
        yield "area", [msgspec.Raw(repr(x).encode()) if is_set else None for x, is_set in pairs]
    if repair.set_iscrowd[rows].any():
        zero = _number(0)
        yield "iscrowd", [zero if x else None for x in repair.set_iscrowd[rows].tolist()]


def _number(value: int) -> msgspec.Raw:
    return msgspec.Raw(b"%d" % value)


def _numbers(values: np.ndarray, chosen: np.ndarray) -> list[msgspec.Raw | None]:
    """The chosen values as JSON, None for the others."""
    pairs = zip(values.tolist(), chosen.tolist(), strict=True)
    return [_number(value) if is_chosen else None for value, is_chosen in pairs]


def _rewritten_in_runs(
    repair: Repair, span: tuple[int, int], rows: slice, changed: np.ndarray
) -> Iterator[bytes]:
    """Rewrite the changed entries; of the runs between them only the category ids change."""
    document, (start, stop) = repair.document, span
    ends = _ends_of_entries(document, span)
    position, row = start, rows.start
    for mark in [*(np.flatnonzero(changed[rows]) + rows.start).tolist(), rows.stop]:
        if mark > row:
            end = ends[mark - rows.start - 1]
            run = _renumbered(repair, document.source[position:end], slice(row, mark))
            if run is None:
                changes = [_annotation_changes(repair, i) for i in range(row, mark)]
                run = b"".join(_rewritten(document, (position, end), changes))
            yield run
            position = end
        if mark < rows.stop:
            end = ends[mark - rows.start]
            yield from _rewritten(document, (position, end), [_annotation_changes(repair, mark)])
            position, row = end, mark + 1
    yield document.source[position:stop]


def _ends_of_entries(document: CocoJson, span: tuple[int, int]) -> list[int]:
    """The byte after each entry of a part of a list."""
    start, stop = span
    position = SEPARATOR.match(document.source, start, stop).end()
    parsed = b"[" + document.parsed[position:stop] + b"]"
    raws = msgspec.json.decode(parsed, type=list[msgspec.Raw])
    lengths = np.array([len(memoryview(raw)) for raw in raws])
    # Nearly always all separators are alike, and need not be looked for one by one.
    after_first = position + int(lengths[0])
    gap = SEPARATOR.match(document.source, after_first, stop).end() - after_first
    ends = position + np.cumsum(lengths) + gap * np.arange(len(lengths))
    source = np.frombuffer(document.source, np.uint8)
    if len(ends) > 1 and ends[-1] <= stop:
        between = source[ends[:-1, None] + np.arange(gap)]
        if (between == between[0]).all() and (source[ends[:-1] + gap] == ord("{")).all():
            return ends.tolist()
    ends = []
    for length in lengths.tolist():
        position = SEPARATOR.match(document.source, position, stop).end() + length
        ends.append(position)
    return ends


def _renumbered(repair: Repair, text: bytes, rows: slice) -> bytes | None:
    """Replace the category ids in `text`, found by a regular expression, which is fast.

    None if it does not find exactly one id in each annotation: `category_id` is inside another key,
    twice, or written as 3.0.
    """
    if not repair.renumbers:
        return text
    old_ids = repair.annotations.category_ids[rows]
    pieces = _CATEGORY_ID.split(text)
    if [*map(int, pieces[2::3])] != old_ids.tolist():
        return None
    new_id = {b"%d" % old: b"%d" % new for old, new in repair.new_category_ids.items()}
    pieces[2::3] = [new_id[old_id] for old_id in pieces[2::3]]
    return b"".join(pieces)


def _annotation_changes(repair: Repair, row: int) -> _Values | None:
    if repair.drop[row]:
        return None
    values: _Values = {}
    annotations = repair.annotations
    if repair.renumbers:
        values["category_id"] = b"%d" % repair.new_category_ids[int(annotations.category_ids[row])]
    if annotations.has_text_id[row]:
        values["id"] = b"%d" % annotations.ids[row]
        values["image_id"] = b"%d" % annotations.image_ids[row]
    if repair.new_ids[row] != MISSING_ID:
        values["id"] = b"%d" % repair.new_ids[row]
    if repair.set_area[row]:
        _, _, width, height = annotations.boxes_xywh[row].tolist()
        values["area"] = repr(width * height).encode()
    if repair.set_iscrowd[row]:
        values["iscrowd"] = b"0"
    return values


def _rewritten(
    document: CocoJson, span: tuple[int, int], changes: list[_Values | None]
) -> Iterator[bytes]:
    """Yield the objects of a part of a list with changed values; None leaves an object out."""
    start, stop = span
    first = SEPARATOR.match(document.source, start, stop).end()
    parsed = document.parsed[first:stop]
    raws = msgspec.json.decode(b"[" + parsed + b"]", type=list[msgspec.Raw])
    position = start
    for raw, values in zip(raws, changes, strict=True):
        first = SEPARATOR.match(document.source, position, stop).end()
        separator = document.source[position:first]
        position = first + len(memoryview(raw))
        if values is not None:
            yield separator + _with_values(document.source[first:position], raw, values)
    yield document.source[position:stop]


def _with_values(text: bytes, parsed: msgspec.Raw, values: _Values) -> bytes:
    """Replace the values of some keys in a JSON object; new keys are added at its end."""
    spans = raw_spans(memoryview(parsed), msgspec.json.decode(parsed, type=dict[str, msgspec.Raw]))
    present = sorted((spans[key], value) for key, value in values.items() if key in spans)
    added = [b'"%s": %s' % (key.encode(), values[key]) for key in values if key not in spans]
    pieces, position = [], 0
    for (start, stop), value in present:
        pieces += [text[position:start], value]
        position = stop
    end = text.rindex(b"}")
    return b"".join([*pieces, b", ".join([text[position:end], *added]), text[end:]])
