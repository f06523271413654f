"""Telling COCO's files of other kinds from annotations of boxes."""

import msgspec

from vision.datasets.coco_json import CocoJson

_KINDS = {"segments_info": "panoptic segments", "caption": "captions"}
_HEAD = 1 << 16  # bytes in which the first annotation's own keys are; a panoptic one has 2 kB


def refuse_other_kinds(document: CocoJson) -> None:
    """Refuse a file of panoptic segments or captions, by the keys of its first annotations.

    Raises:
        ValueError: names the kind and the file that is needed.
    """
    start, _ = document.spans.get("annotations", (0, 0))
    head = document.parsed[start : start + _HEAD]
    if not head.startswith(b"[") or not any(b'"%b"' % key.encode() in head for key in _KINDS):
        return
    _, _, records = next(document.chunks("annotations", dict[str, msgspec.Raw]), (0, 0, []))
    first = records[0] if records else {}
    if "bbox" in first:
        return
    kind = next((_KINDS[key] for key in _KINDS if key in first), None)
    if kind:
        raise ValueError(
            f"{document.path}: holds {kind}, with no box to train on; take the instances_*.json of "
            "the same images"
        )
