"""The flags that name a data set and say how it is read: the same in every script."""

import argparse
import json

import pytest
from script_runs import call
from yolo_factory import write_image

from docs.flags_page import PARSERS
from vision.command_line import FamilyParser, flag_of
from vision.data_flags import (
    READING,
    add_data_flags,
    check_data_flags,
    data_name,
    data_words,
    open_dataset,
)

# They fetch, name a file that has all in it, read one layout only, or are given images.
OPEN_NO_DATA_SET = {
    "onnx_export.py",  # passes what it does not know on to export_ssd.py
    "run_ssd_example.py",
    "run_ssd_live_demo.py",
    "train_mobilenetv2_ssd.py",
    "open_images_downloader.py",
    "coco_downloader.py",
    "fix_coco_annotations.py",
    "convert_yolo_to_coco.py",
}


@pytest.mark.parametrize("script", sorted(PARSERS.keys() - OPEN_NO_DATA_SET))
def test_every_script_that_opens_data_reads_it_in_the_same_ways(script):
    actions = {s: a for a in PARSERS[script]()._actions for s in a.option_strings}
    for name, about in READING.items():
        assert actions[flag_of(name)].choices == about.get("choices"), name
        assert actions[flag_of(name)].default == about["default"], name
    pair = {"--annotations", "--path"} if script.startswith("validate") else {"--val-json"}
    assert pair <= actions.keys()


def parse(*argv):
    parser = FamilyParser(prog="x")
    add_data_flags(parser, "", pairs=("train", "val"))
    args = parser.parse_args(argv)
    check_data_flags(parser, args)
    return args


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "--dataset ROOT is needed"),
        (["--val-json", "a.json"], "--val-json FILE and --val-images DIR belong together"),
        (["--train-images", "a"], "--train-json FILE and --train-images DIR belong together"),
        (["--dataset", "d", "--val-json", "a", "--val-images", "b"], "give one of them"),
        (["--dataset-type", "voc", "--val-json", "a", "--val-images", "b"], "a file of COCO's"),
        (
            ["--val-split", "f", "--val-json", "a", "--val-images", "b"],
            "the val split of --dataset",
        ),
    ],
)
def test_what_names_no_data_set_or_two(argv, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(*argv)
    assert said in capsys.readouterr().err


def write_pair(root, split, bbox):
    write_image(root / "photos" / f"{split}.jpg")
    content = {
        "images": [{"id": 7, "file_name": f"{split}.jpg", "width": 100, "height": 50}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": bbox}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / f"{split}.json").write_text(json.dumps(content))
    return [f"--{split}-json", f"{root}/{split}.json", f"--{split}-images", f"{root}/photos"]


def test_named_files_are_a_data_set(tmp_path):
    flags = write_pair(tmp_path, "train", [5, 6, 60, 40]) + write_pair(
        tmp_path, "val", [1, 2, 9, 8]
    )
    args = parse(*flags, "--boxes", "xyxy")
    folder = open_dataset(args, split="val")
    assert folder.splits == ["train", "val"]
    assert folder.open("val").index.boxes_xywh.tolist() == [[1, 2, 8, 6]]
    assert data_name(args) == f"{tmp_path}/train.json {tmp_path}/val.json"
    assert data_words(args) == [*flags, "--boxes", "xyxy"]
    with pytest.raises(ValueError, match=r"given as the train and val split, .* is test"):
        folder.open("test")
    with pytest.raises(ValueError, match=r"COCO layout: --one-based has no meaning"):
        open_dataset(parse(*flags, "--one-based"), split="val")
    assert isinstance(args, argparse.Namespace)


def test_the_tools_take_named_files(tmp_path):
    """Corners become sizes; both images are black, and look the same."""
    flags = write_pair(tmp_path, "train", [5, 6, 60, 40]) + write_pair(
        tmp_path, "val", [1, 2, 9, 8]
    )
    done = call("convert_to_coco", *flags, "--boxes", "xyxy", "--output", tmp_path / "out")
    assert done.code == 0, done.err
    written = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert written["annotations"][0]["bbox"] == [5, 6, 55, 34]
    done = call("split_dataset", *flags, "--group-by", "none", "--output", tmp_path / "split")
    assert done.code == 0, done.err
    done = call("check_dataset", *flags, "--boxes", "xyxy")
    assert done.code == 1 and "WRONG 1 of the 1 images of val are the same file as" in done.out
