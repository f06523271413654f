"""Small Pascal VOC folders for the tests."""

from pathlib import Path

from yolo_factory import write_image

OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{0}</xmin>"
    "<ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)


def voc_object(name: str, *corners: float, difficult: int = 0) -> str:
    return OBJECT.format(*corners, name=name, difficult=difficult)


def voc_xml(*objects: str, size: str = "<width>100</width><height>50</height>", file="x") -> str:
    return (
        f"<annotation><filename>{file}</filename><size>{size}<depth/></size>{''.join(objects)}"
        "</annotation>"
    )


CAT = voc_object("cat", 10, 5, 40.5, 25.25)
DOG = voc_object("dog", 50, 10, 90, 45)


def make_voc(root: Path, images: dict[str, str], lists: dict[str, str] | None = None) -> Path:
    """JPEGImages/, Annotations/ with one .xml an image, and ImageSets/Main with the lists."""
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    for name, text in images.items():
        write_image(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")
    for name, content in (lists or {}).items():
        file = root / "ImageSets/Main" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    return root
