"""Telling COCO's files of other kinds from annotations of boxes."""

import msgspec

from vision.datasets.coco_json import CocoJson


def refuse_other_kinds(document: CocoJson) -> None:
    """Refuse a file of panoptic segments or captions, by the keys of its first annotations.

    Raises:
        ValueError: names the kind and the file that is needed.
    """
    start, _ = document.spans.get("annotations", (0, 0))
    if document.parsed[start : start + 1] != b"[":
        return
    _, _, records = next(document.chunks("annotations", dict[str, msgspec.Raw]), (0, 0, []))
    first = records[0] if records else {}
    if "bbox" in first:
        return
    kinds = {"segments_info": "panoptic segments", "caption": "captions"}
    kind = next((kinds[key] for key in kinds if key in first), None)
    if kind:
        raise ValueError(
            f"{document.path}: holds {kind}, with no box to train on; take the instances_*.json of "
            "the same images"
        )
