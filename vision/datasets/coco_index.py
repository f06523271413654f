"""A COCO annotation file as an index of flat arrays."""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vision.datasets.annotation_index import NOT_FINITE, AnnotationIndex, Category, build_index
from vision.datasets.box_forms import look_at_boxes, to_xywh
from vision.datasets.coco_ids import MISSING_ID, CocoIds
from vision.datasets.coco_json import CocoJson
from vision.datasets.coco_kinds import refuse_other_kinds
from vision.datasets.coco_tables import (
    Annotations,
    Images,
    positions_of,
    read_annotations,
    read_categories,
    read_images,
)
from vision.datasets.image_headers import image_size
from vision.datasets.image_names import find_all
from vision.files.available_memory import give_back_freed_memory

_NUM_THREADS = 8  # they wait for the disk side by side


def load_coco_index(
    annotation_file: str | os.PathLike,
    image_folder: str | os.PathLike | None = None,
    *,
    box_form: str | None = None,
) -> AnnotationIndex:
    """Read an annotation file in COCO's format into flat arrays.

    A missing `area` becomes width x height, a missing `iscrowd` 0, missing `annotations` none; ids
    that are text become numbers; images are found under other spellings of their names. `accepted`
    of the index counts them.

    Args:
        annotation_file: the file.
        image_folder: where images are looked for, and at for the sizes that the file does not give.
        box_form: what the numbers of a `bbox` are, one of BOX_FORMS; None: COCO's x, y, width and
            height, unless the file's boxes tell that they are something else.

    Raises:
        ValueError: malformed JSON (names the byte offset), an entry of a wrong type, the same id
            twice, an annotation of an unknown image or category, boxes of another form, or
            annotations of another kind; names file and entry.
        OSError: the file cannot be read.
    """
    index = _index_of(CocoJson(annotation_file), image_folder, box_form)
    give_back_freed_memory()  # after COCO glibc kept 120 MB of 185 for later
    return index


def _index_of(
    document: CocoJson, image_folder: str | os.PathLike | None, box_form: str | None
) -> AnnotationIndex:
    refuse_other_kinds(document)
    ids = CocoIds()
    categories = read_categories(document, ids)
    images = read_images(document, ids)
    annotations = read_annotations(document, ids)
    category_ids = np.array([category.id for category in categories])
    rows = positions_of(annotations.image_ids, images.ids)
    labels = positions_of(annotations.category_ids, category_ids) + 1
    _refuse_unknown(document.path, annotations, ids, rows, labels)
    accepted = dict(_accepted(ids, images, annotations))
    if image_folder is not None:
        accepted |= find_image_files(images, image_folder)
    read_missing_sizes(document.path, images, image_folder)
    if box_form is None:
        check_box_form(document.path, annotations, images, rows)
        box_form = "xywh"
    return build_index(
        document.path,
        [
            Category(label, r.id, r.id if r.original_id is None else r.original_id, r.name)
            for label, r in enumerate(categories, 1)
        ],
        image_ids=images.ids,
        file_names=images.names,
        sizes=images.sizes,
        rows=rows,
        labels=labels,
        boxes_xywh=to_xywh(annotations.boxes_xywh, images.sizes[rows], box_form),
        areas=annotations.areas,
        iscrowd=annotations.iscrowd == 1,
        accepted=accepted,
        doubts=list(find_doubts(images, annotations)),
    )


def find_image_files(images: Images, image_folder: str | os.PathLike) -> dict[str, int]:
    """Replace names by those of the files that are there; count them, for `accepted`."""
    found, count, example = find_all(images.names, image_folder)
    if not count:
        return {}
    images.is_renamed = np.array(
        [old != new for old, new in zip(images.names, found, strict=True)], dtype=bool
    )
    images.names = found
    return {f"images found under another spelling of their name ({example})": count}


def check_box_form(path: str, annotations: Annotations, images: Images, rows: np.ndarray) -> None:
    """Refuse boxes that are not COCO's, as far as all of them together tell.

    Raises:
        ValueError: says what they look like, and the flag that reads them.
    """
    boxes, known = annotations.boxes_xywh, rows >= 0
    if not known.all():
        boxes, rows = boxes[known], rows[known]
    signature = look_at_boxes(boxes, images.sizes.take(rows, axis=0))
    if signature.looks_like:
        raise ValueError(
            f"{path}: its boxes look like {signature.looks_like} instead of COCO's x, y, width and "
            f"height in pixels: {signature.reason}; read them with --boxes "
            f"{signature.looks_like}, or with --boxes xywh as they are"
        )


def find_doubts(images: Images, annotations: Annotations) -> Iterator[str]:
    """Yield what in a file contradicts itself, in words."""
    if len(set(images.names)) < len(images.names):
        repeated = [name for name, count in Counter(images.names).items() if count > 1]
        yield (
            f"{len(repeated)} images are listed twice, each entry with its own boxes (first "
            f"{repeated[0]}): what one entry marks is background in the other; join the entries"
        )
    crowds = annotations.iscrowd == 1
    if len(crowds) and crowds.all():
        yield f"all its {len(crowds)} annotations are crowds, from which nothing is learned"


def read_missing_sizes(path: str, images: Images, image_folder: str | os.PathLike | None) -> None:
    """Fill in `images.sizes`, from the files, where the annotations have no width or height.

    Raises:
        ValueError: a file is not there, or is no image; names it and its entry.
    """
    rows = np.flatnonzero(~images.has_size)
    if not len(rows):
        return

    def size_of(row: int) -> tuple[int, int]:
        """Read (height, width) of the image in this row from its file."""
        name = images.names[row]
        place = os.path.join(image_folder or "", name)
        if image_folder is None or not os.path.isfile(place):
            raise ValueError(
                f"{path}: image {images.ids[row]} ({name}) has no width and height, and there is "
                f"no such file in {image_folder or 'a folder of images'} to read them from; write "
                "its true width and height into its entry"
            )
        return image_size(place)

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        images.sizes[rows] = list(pool.map(size_of, rows))


def _accepted(ids: CocoIds, images: Images, annotations: Annotations) -> Iterator[tuple[str, int]]:
    """Count what the file lacks or has in another form, by kind."""
    counts = {
        "images without width and height, read from their files": ~images.has_size,
        "images whose id is text, taken as a number": images.has_text_id,
        "annotations with ids that are text, taken as numbers": annotations.has_text_id,
        "annotations without area, taken as width x height": ~(
            np.abs(annotations.areas) < NOT_FINITE
        ),
        "annotations without iscrowd, taken as 0": annotations.iscrowd < 0,
    }
    if ids.categories.count:
        yield "categories whose id is text, taken as a number", ids.categories.count
    for what, rows in counts.items():
        if rows.any():
            yield what, int(rows.sum())


def _refuse_unknown(
    path: str, annotations: Annotations, ids: CocoIds, rows: np.ndarray, labels: np.ndarray
) -> None:
    for what, unknown, numbers, texts in (
        ("image", rows < 0, annotations.image_ids, ids.images),
        ("category", labels < 1, annotations.category_ids, ids.categories),
    ):
        if unknown.any():
            first = int(np.argmax(unknown))
            number = numbers[first]
            own_id = annotations.ids[first]
            name = f"annotations[{first}]" if own_id == MISSING_ID else f"annotation {own_id}"
            owner = f"has unknown {what} {texts.shown(number)}"
            if number == MISSING_ID:
                owner = f"has no {what}_id"
            raise ValueError(
                f"{path}: {name} {owner} ({int(unknown.sum())} such "
                "annotations); run fix_coco_annotations.py to drop them"
            )
