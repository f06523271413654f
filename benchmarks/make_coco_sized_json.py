"""Write an annotation file of the size and shape of COCO's instances_train2017.json.

118,287 images, about 860,000 annotations and 470 MB, with the key order, the gaps in the
category ids, the polygons, run-length crowds and annotation ids of the real one:

    python benchmarks/make_coco_sized_json.py --output big/annotations/instances_train2017.json

--image-folder DIR also fills a folder with its images: hard links to a few drawn ones.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vision.datasets.sample import write_sample_dataset

COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
CATEGORY_IDS = [number for number in range(1, 91) if number not in COCO_GAPS]
NUM_IMAGES = 118_287
SIZES = ((480, 640), (640, 480), (427, 640), (333, 500))
DRAWN_PER_SIZE = 40


def make_images(num_images: int, rng: np.random.Generator) -> list[dict]:
    """Image entries with COCO's eight keys, in an order that is not the order of the ids."""
    image_ids = np.sort(rng.choice(600_000, num_images, replace=False) + 1)
    rng.shuffle(image_ids)
    sizes = rng.choice(SIZES, num_images)
    return [
        {
            "license": int(number % 8 + 1),
            "file_name": f"{number:012d}.jpg",
            "coco_url": f"http://images.cocodataset.org/train2017/{number:012d}.jpg",
            "height": int(height),
            "width": int(width),
            "date_captured": "2013-11-14 17:02:52",
            "flickr_url": f"http://farm7.staticflickr.com/6116/{number:010d}_02d7a1a1a0_z.jpg",
            "id": int(number),
        }
        for number, (height, width) in zip(image_ids, sizes, strict=True)
    ]


def annotation_texts(images: list[dict], rng: np.random.Generator) -> Iterator[str]:
    """Yield annotations as JSON text, formatted as COCO's; one in a hundred images has none."""
    counts = rng.geometric(1 / 7.335, len(images)) * (rng.random(len(images)) > 0.0086)
    category_ids = np.array(CATEGORY_IDS)
    pool = [
        ",".join(f"{x:.2f}" for x in rng.random(2 * points) * 600)
        for points in 5 + rng.geometric(1 / 21.2, 4000)
    ]
    number = 0
    for image, count in zip(images, counts, strict=True):
        for _ in range(count):
            number += 1
            height, width = rng.random(2) ** 2 * (image["height"] - 2, image["width"] - 2) + 2
            x, y = rng.random(2) * (image["width"] - width, image["height"] - height)
            box = f"[{x:.2f},{y:.2f},{width:.2f},{height:.2f}]"
            category_id = category_ids[int(rng.random() ** 2 * len(category_ids))]
            crowd = int(number % 86 == 0)
            polygon = pool[number % len(pool)]
            segmentation = f"[[{polygon}]]"
            if crowd:
                runs = ",".join(str(n) for n in range(100, 300))
                segmentation = (
                    f'{{"counts": [{runs}],"size": [{image["height"]},{image["width"]}]}}'
                )
            annotation_id = number + (900_100_000_000 if crowd else 0)
            yield (
                f'{{"segmentation": {segmentation},"area": {width * height * 0.7},'
                f'"iscrowd": {crowd},"image_id": {image["id"]},"bbox": {box},'
                f'"category_id": {category_id},"id": {annotation_id}}}'
            )


def write_coco_sized_json(output: Path, *, num_images: int = NUM_IMAGES, seed: int = 0) -> int:
    """Write the file; return its number of annotations."""
    rng = np.random.default_rng(seed)
    images = make_images(num_images, rng)
    categories = [
        {"supercategory": f"group {number % 12}", "id": number, "name": f"class {number}"}
        for number in CATEGORY_IDS
    ]
    info = {"description": "synthetic, COCO 2017 sized", "year": 2017, "version": "1.0"}
    output.parent.mkdir(parents=True, exist_ok=True)
    num_annotations = 0
    with output.open("w", encoding="ascii") as file:
        file.write(f'{{"info": {json.dumps(info)},"licenses": [],"images": ')
        json.dump(images, file, separators=(",", ": "))
        file.write(',"annotations": [')
        for text in annotation_texts(images, rng):
            file.write("," * (num_annotations > 0) + text)
            num_annotations += 1
        file.write(f'],"categories": {json.dumps(categories, separators=(",", ": "))}}}')
    return num_annotations


def link_images(annotation_file: Path, folder: Path) -> None:
    """Make the image files of such an annotation file: links to drawn images of their sizes."""
    images = json.loads(annotation_file.read_bytes())["images"]
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as drawn:
        files = {size: _draw(Path(drawn, "x".join(map(str, size))), size) for size in SIZES}
        for number, image in enumerate(images):
            choice = files[image["height"], image["width"]]
            os.link(choice[number % len(choice)], folder / image["file_name"])


def _draw(root: Path, size: tuple[int, int]) -> list[Path]:
    write_sample_dataset(root, num_train=DRAWN_PER_SIZE, num_val=1, image_size=size)
    return sorted((root / "train2017").iterdir())


def main(argv: list[str] | None = None) -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--num-images", type=int, default=NUM_IMAGES, help="images in it")
    parser.add_argument("--image-folder", type=Path, help="folder to make and fill with images")
    arguments = parser.parse_args(argv)
    count = write_coco_sized_json(arguments.output, num_images=arguments.num_images)
    size = arguments.output.stat().st_size / 1e6
    print(f"{arguments.output}: {arguments.num_images} images, {count} annotations, {size:.0f} MB")
    if arguments.image_folder:
        link_images(arguments.output, arguments.image_folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
