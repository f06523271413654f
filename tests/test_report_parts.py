"""What the report finds: advice, label errors, shifts of the data, numbers of the network."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from detection_factory import found, random_case, truth
from report_factory import make_validation, network, write_run, write_split

import eval_ssd
from vision.args import build_train_parser
from vision.evaluation.coco_boxes import GroundTruth
from vision.evaluation.errors import gain_if_found
from vision.report.advice import LIMIT, coverage_by_fitting, find_advice
from vision.report.analysis import Analysis
from vision.report.dataset import describe_split, find_shifts
from vision.report.gallery import draw_pictures, false_positives, likely_label_errors, misses
from vision.report.history_figures import history_figures
from vision.report.inputs import RunHistory, describe_network, read_history
from vision.report.report import build_report
from vision.report.run_facts import change_lines, run_commands
from vision.report.svg import Canvas, label
from vision.report.tables import MAX_MATRIX, confusion_table
from vision.ssd.models import build_model
from vision.ssd.torchvision_ssd import NamedClasses

NAMES = ["cat", "dog", "owl"]
BOX = (10, 10, 100, 100)


def grid(num_images: int, label: int, side: float, *, start: int = 0, count: int = 3) -> list:
    """`count` boxes of `side` pixels in each image, apart from each other."""
    return [
        (start + i, label, 15 + 110 * j, 20, side, side)
        for i in range(num_images)
        for j in range(count)
    ]


def analyse(folder, boxes, detections, *, num_images: int = 30, **changes) -> Analysis:
    gt = truth(*boxes, num_images=num_images)
    return Analysis(make_validation(folder, NAMES, (gt, found(*detections)), **changes))


def facts_of(analysis: Analysis):
    return describe_split(analysis.given.sources, NAMES, analysis.given.network)


def advice_of(analysis: Analysis, history: RunHistory | None = None) -> dict[str, object]:
    """The advice by its flag."""
    found_advice = find_advice(analysis, history or RunHistory(), facts_of(analysis))
    gains = [advice.gain for advice in found_advice]
    assert gains == sorted(gains, reverse=True) and len(gains) <= LIMIT
    return {next(w for w in a.remedy.split()[1:] if w[:2] == "--"): a for a in found_advice}


def test_missed_small_boxes_ask_for_a_larger_input(tmp_path):
    """Cats of 40 px in images of 400 are 9.6 px of 96; owls of 100 px are found."""
    boxes = grid(20, 1, 40) + grid(20, 3, 100)
    analysis = analyse(tmp_path, boxes, [(*box, 0.9) for box in grid(20, 3, 100)])
    advice = advice_of(analysis)["--image-size"]
    assert advice.statement.startswith("100\u00a0% of 60 missed boxes are under 32 px")
    assert advice.remedy == "train_ssd.py --image-size 160"  # 1.5 x 96, up to 32
    assert advice.gain == pytest.approx(0.5)  # of two classes, one has AP50 0
    assert gain_if_found(analysis.matches, analysis.errors.is_missed) == pytest.approx(0.5)


def test_missed_boxes_without_a_prior_ask_for_fitted_ones(tmp_path):
    """9.6 px in the middle of cells of 16 px: today's smallest prior has 19.2, IoU 1/4."""
    cell = 400 / 6
    boxes = [
        (i, 1, (j + 0.5) * cell - 20, 1.5 * cell - 20, 40, 40) for i in range(9) for j in (0, 2)
    ]
    owls = [(i, 3, 150, 150, 100, 100) for i in range(9)]
    analysis = analyse(tmp_path, boxes + owls, [(*owl, 0.9) for owl in owls])
    missed = analysis.errors.is_missed
    assert analysis.prior_ious[missed].tolist() == pytest.approx([0.25] * 18, abs=1e-4)
    before, after = coverage_by_fitting(facts_of(analysis), analysis.given.network)
    assert (before, after) == pytest.approx((1 / 3, 1))
    advice = advice_of(analysis)["--priors"]
    assert "100\u00a0% of 18 missed boxes fit no prior" in advice.statement
    assert f"from {before:.2f} to {after:.2f}" in advice.statement
    assert advice.remedy == "train_ssd.py --priors fit"


def test_a_val_loss_that_turns_is_overfitting(tmp_path):
    run = write_run(
        tmp_path / "run",
        loss=[5, 4, 3, 2, 1],
        val_loss=[5, 4, 4.2, 4.6, 5],
        AP=[0.1, 0.3, 0.3, 0.2, 0.2],
    )
    analysis = analyse(tmp_path, [(0, 1, *BOX)], [(0, 1, *BOX, 0.9)])
    advice = advice_of(analysis, read_history(run))["--epochs"]
    assert "val loss rises from epoch 2 on, from 4.000 to 5.000" in advice.statement
    assert advice.gain == pytest.approx(0.1)
    falling = write_run(tmp_path / "good", loss=[5, 4, 3, 2, 1], val_loss=[5, 4, 3.9, 3.8, 3.7])
    assert "--epochs" not in advice_of(analysis, read_history(falling))


def test_an_ap_that_still_rises_asks_for_more_epochs(tmp_path):
    run = write_run(tmp_path / "run 1", AP=[0.1, 0.2, 0.3, 0.4], val_loss=[4, 3, 2, 1])
    analysis = analyse(tmp_path, [(0, 1, *BOX)], [(0, 1, *BOX, 0.9)])
    advice = advice_of(analysis, read_history(run))["--resume"]
    assert advice.remedy == f"./train_ssd.py --resume '{run}' --epochs 9"
    assert advice.gain == pytest.approx(0.1)


def test_two_validations_are_enough_to_see_a_rise(tmp_path):
    run = write_run(tmp_path / "run", AP=[None, 0.2, None, 0.4], val_loss=[None, 3, None, 1])
    analysis = analyse(tmp_path, [(0, 1, *BOX)], [(0, 1, *BOX, 0.9)])
    advice = advice_of(analysis, read_history(run))["--resume"]
    assert advice.gain == pytest.approx(0.2) and "since epoch 2" in advice.statement


@pytest.mark.parametrize(
    ("base_net", "steps", "flag", "words"),
    [
        ("none", 500, "--base-net", "started from random weights"),
        ("a.pth", 500, "--resume", "500 steps are few"),
        ("a.pth", 5000, "--image-size", "that look alike need more"),
    ],
)
def test_wrong_classes_have_a_remedy(tmp_path, base_net, steps, flag, words):
    run = write_run(tmp_path / "run", base_net=base_net, AP=[0.2, 0.2], step=[steps // 2, steps])
    boxes = grid(10, 1, 100)
    analysis = analyse(tmp_path, boxes, [(box[0], 2, *box[2:], 0.9) for box in boxes])
    advice = advice_of(analysis, read_history(run))[flag]
    assert words in advice.statement
    assert "right place and the wrong class, above the threshold most often cat taken for dog" in (
        advice.statement
    )


def test_classes_with_few_boxes_are_named(tmp_path):
    boxes = [*grid(25, 1, 100), (26, 2, *BOX), (27, 2, *BOX)]
    analysis = analyse(tmp_path, boxes, [(*box, 0.9) for box in grid(25, 1, 100)])
    advice = advice_of(analysis)["--pretrained-ssd"]
    assert "(dog has 2)" in advice.statement
    assert advice.gain == pytest.approx(0.5)


def test_classes_of_small_boxes_that_are_below_the_others_ask_for_a_larger_input(tmp_path):
    """Dogs of 40 px are 9.6 px at the input; half of them are found, behind as many mistakes."""
    owls, dogs = grid(10, 3, 200, count=1), grid(10, 2, 40, count=2)
    mistakes = [(image, 2, 300, 300, 40, 40, 0.95) for image in range(10)]
    detections = [(*box, 0.9) for box in [*owls, *dogs[::2]]] + mistakes
    advice = advice_of(analyse(tmp_path, owls + dogs, detections))["--image-size"]
    dog = (51 / 101) / 2  # precision 1/2 up to recall 1/2
    assert advice.gain == pytest.approx((1 - dog) / 2)
    assert "In 1 of 2 classes half of the boxes or more are under 32 px" in advice.statement
    assert "(median: dog 10 px). Their AP50 is 0.252, that of the others 1.000" in advice.statement


def test_every_resume_is_marked_with_what_it_changed(tmp_path):
    run = write_run(tmp_path / "run", AP=[0.1, 0.2, 0.3])
    config = json.loads((run / "config.json").read_text())
    config["resumes"] = [{"epoch": 1, "step": 10}, {"epoch": 2, "step": 25}]
    (run / "config.json").write_text(json.dumps(config))
    history = read_history(run)
    assert change_lines(history) == [
        "after epoch 1, step 10: workers 0 to 2",
        "after epoch 2, step 25: nothing changed",
    ]
    losses = history_figures(history, Canvas())[0]
    assert "> 1</text>" in losses.svg and "> 2</text>" in losses.svg


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [None, "x", float("inf"), 10**400, -1e308])
def test_what_is_no_number_in_the_metrics_is_left_out_of_the_drawings(tmp_path, value):
    names = ("loss", "val_loss", "AP", "lr", "images_per_second", "data_wait", "peak_memory_mb")
    numbers = {name: [0.5, 0.25] for name in names}
    drawn = history_figures(read_history(write_run(tmp_path / "a", **numbers)), Canvas())
    assert [figure.title for figure in drawn] == [
        "Losses", "AP on val", "Learning rate", "Images a second", "Peak memory, MB",
        "What the time went to",
    ]  # fmt: skip
    run = write_run(tmp_path / "b", **{name: [value, value] for name in names})
    drawn = history_figures(read_history(run), Canvas())
    assert [figure.title for figure in drawn] == ["Losses", "What the time went to"]
    assert not any("nan" in figure.caption for figure in drawn)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", "x"), ("epochs", 10**400), ("neg_pos_ratio", None), ("iou_threshold", [1]),
     ("workers", "many"), ("weight_decay", {}), ("image_size", 300)],
)  # fmt: skip
def test_an_edited_argument_is_named(tmp_path, name, value):
    run = write_run(tmp_path / "run", AP=[0.1])
    config = json.loads((run / "config.json").read_text())
    config["arguments"][name] = value
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config.json: .*edited.*\$\.{name}"):
        read_history(run)


def test_each_val_set_has_its_command(tmp_path):
    flags = [
        ["--dataset", "a b", "--dataset-type", "voc"],
        ["--val-json", "c", "--val-images", "d"],
    ]
    validation = make_validation(tmp_path, NAMES, dataset_flags=flags, command=["./train_ssd.py"])
    commands = dict(run_commands(Analysis(validation), RunHistory()))
    assert commands["Evaluate it, on one of the 2 data sets at a time"].splitlines() == [
        "./eval_ssd.py --trained-model runs/cells --dataset 'a b' --dataset-type voc --split val "
        "--output-dir runs/cells/eval1",
        "./eval_ssd.py --trained-model runs/cells --val-json c --val-images d --split val "
        "--output-dir runs/cells/eval2",
    ]
    assert commands["Export it"].endswith("--target onnx")
    one = make_validation(tmp_path, NAMES, dataset_flags=flags[:1])
    assert dict(run_commands(Analysis(one), RunHistory()))["Export it"] == (
        "./export_ssd.py --trained-model runs/cells --target onnx --dataset 'a b' --dataset-type "
        "voc --split val"
    )


def test_what_nobody_marked_is_said_and_costs_nothing(tmp_path):
    """Owls are marked in image 1 alone; in image 0 one is detected."""
    gt = truth((0, 1, *BOX), (1, 3, *BOX), num_images=2)
    unannotated = np.zeros((2, 4), bool)
    unannotated[0, 3] = True
    gt.unannotated = unannotated
    detections = gt.counted(found((0, 1, *BOX, 0.9), (0, 3, *BOX, 0.99), (1, 3, *BOX, 0.8)))
    validation = make_validation(tmp_path, NAMES, (gt, detections))
    validation.ground_truth.unannotated = unannotated
    analysis = Analysis(validation)
    assert analysis.errors.counts.sum() == 0 and not likely_label_errors(analysis)
    assert analysis.confusion.trace() == analysis.confusion.sum() == 2
    assert "Nobody marked owl in 1 image: what is" in build_report(analysis, RunHistory())


def test_a_box_that_is_missed_beside_doubled_labels_is_shown(tmp_path):
    boxes = [(0, 3, *BOX), (0, 3, 12, 10, 100, 100), (0, 1, 200, 200, 90, 90)]
    text = build_report(Analysis(make_validation(tmp_path, NAMES, (truth(*boxes), found()))),
                        RunHistory())  # fmt: skip
    assert "1 shown: detections and labels" in text and "3 shown: the largest boxes" in text


def test_a_perfect_result_needs_no_advice(tmp_path):
    boxes = grid(20, 1, 100)
    assert advice_of(analyse(tmp_path, boxes, [(*box, 0.9) for box in boxes])) == {}


@pytest.mark.parametrize("seed", range(4))
def test_every_flag_that_is_advised_exists(tmp_path, seed):
    run = write_run(
        tmp_path / "run", loss=[5, 4, 3, 2, 1], val_loss=[5, 4, 4.2, 4.6, 5], AP=[0.1] * 5,
        data_wait=[0.5] * 5,
    )  # fmt: skip
    case = random_case(seed, num_images=20)
    analysis = Analysis(make_validation(tmp_path, NAMES, case))
    found_advice = find_advice(analysis, read_history(run), facts_of(analysis))
    assert len(found_advice) == LIMIT
    parsers = {"train_ssd.py": build_train_parser(), "eval_ssd.py": eval_ssd.build_eval_parser()}
    for advice in found_advice:
        script, *words = advice.remedy[advice.remedy.rindex("_ssd.py") - 5 :].strip().split()
        script = script if script in parsers else "eval_ssd.py"
        for word in words:
            if word.startswith("--"):
                assert word in parsers[script]._option_string_actions, advice.remedy


def test_likely_label_errors_are_those_that_are_mostly_right(tmp_path):
    """Cats at 0.9 and 0.8 are found, one at 0.85 has no label; two owls share a place."""
    cats = [(i, 1, *BOX) for i in range(9)]
    detections = [(*cat, 0.9) for cat in cats[:7]] + [(*cat, 0.8) for cat in cats[7:]]
    detections += [(9, 1, *BOX, 0.85), (10, 2, *BOX, 0.97)]
    owls = [(11, 3, *BOX), (11, 3, 12, 10, 100, 100), (10, 3, *BOX)]
    analysis = analyse(tmp_path, cats + owls, detections, num_images=12)
    examples = likely_label_errors(analysis)
    captions = [(example.image, example.caption) for example in examples]
    # The twin owls overlap by 98 / 102. Of cats from 0.8 on 9 of 10 are right, more than the 7 of
    # 8 from 0.85 on; of dogs, none.
    assert captions == [
        (11, "labelled twice as owl, IoU 0.96"),
        (9, "cat 0.85, no label here; 90\u00a0% of cat from 0.80 on are right"),
    ]
    shown = false_positives(analysis)
    assert [example.image for example in shown] == [9]
    assert {example.key for example in shown} <= {example.key for example in examples}
    assert [example.image for example in misses(analysis)] == [11, 11]


def test_a_picture_shows_its_box(tmp_path):
    analysis = analyse(tmp_path, [(1, 1, *BOX)], [], num_images=2)
    pictures = draw_pictures(misses(analysis), analysis.given.sources)
    assert [p.file for p in pictures] == ["1.jpg"]
    assert max(pictures[0].width, pictures[0].height) == 176
    assert pictures[0].source.startswith("data:image/jpeg;base64,")


def test_splits_that_differ_are_told_from_chance(tmp_path):
    """The same drawing twice does not differ; classes in another mix do."""
    first, second = random_case(1, num_images=60)[0], random_case(2, num_images=60)[0]
    other = dataclasses.replace(second, labels=np.where(second.labels == 1, 3, second.labels))
    splits = [split(tmp_path / str(i), gt) for i, gt in enumerate((first, second, other))]
    alike = {s.name: s for s in find_shifts(splits[0], splits[1], NAMES)}
    differ = {s.name: s for s in find_shifts(splits[0], splits[2], NAMES)}
    assert not alike["classes"].is_seen and not alike["box sizes"].is_seen
    assert differ["classes"].is_seen and differ["classes"].largest in ("cat", "owl")
    expected = np.bincount(splits[2].labels, minlength=4)[1:] / len(splits[2].labels)
    place = NAMES.index(differ["classes"].largest)
    assert differ["classes"].shares[1] == pytest.approx(expected[place])


def split(folder, gt: GroundTruth):
    return describe_split([(write_split(folder, gt, NAMES), folder)], NAMES, network())


def test_boxes_at_the_input_size(tmp_path):
    """100 x 50 px of 400 x 400 at 96 x 96: 24 x 12 px. Classes are found by name."""
    gt = truth((0, 1, 200, 100, 100, 50), (0, 1, 0, 0, 10, 10, 1), num_images=2)
    index = write_split(tmp_path, gt, ["owl", "cat", "dog"])
    facts = describe_split([(index, tmp_path)], NAMES, network())
    assert facts.labels.tolist() == [3]  # the file's first class is our third
    assert facts.sizes.tolist() == pytest.approx([np.sqrt(24 * 12)])
    assert facts.ratios.tolist() == pytest.approx([2])
    assert facts.centers.tolist() == [pytest.approx([0.625, 0.3125])]
    assert (facts.num_images, facts.num_empty) == (2, 1)
    assert facts.places()[5, 10] == 1


def test_numbers_of_a_network():
    """Against torch's own count of the parameters, and a convolution counted by hand."""
    model = build_model("mb2-ssd-lite", num_classes=4)
    facts = describe_network(model)
    assert facts.num_parameters == sum(p.numel() for p in model.parameters()) == 3_087_328
    assert facts.priors_cxcywh.shape == (3000, 4)
    counted = []

    def count(layer, inputs, output):
        taps = layer.in_channels // layer.groups * np.prod(layer.kernel_size)
        counted.append(output.numel() * int(taps))

    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    model.eval()(torch.zeros(1, 3, 300, 300))
    assert facts.macs == sum(counted)


def test_a_network_without_some_classes_is_described():
    model = NamedClasses(build_model("ssdlite320-mb3-large", num_classes=5), [1, 3])
    facts = describe_network(model)
    assert facts.name == "ssdlite320-mb3-large" and len(facts.feature_map_sizes) == 6


def test_many_classes_are_folded_in_the_matrix(tmp_path):
    names = [f"class {i}" for i in range(40)]
    analysis = Analysis(make_validation(tmp_path, names, random_case(0, num_classes=40)))
    table = confusion_table(analysis)
    assert (
        table["names"][-2:] == ["other 28", "not found"] and len(table["names"]) == MAX_MATRIX + 2
    )
    total = sum(cell["count"] or 0 for _, row in table["rows"] for cell in row)
    assert total == analysis.confusion.sum()


def test_names_in_drawings():
    assert label("a$b$") == r"a\$b\$"
    assert label("x" * 50) == "x" * 19 + "..."
    assert label("two\nlines") == "two lines"
    canvas = Canvas()
    with canvas.figure() as (drawing, axes):
        axes.set_title("<&>")
        figure = canvas.finish(drawing, 'a "title" <b>', "")
    assert 'aria-label="a &quot;title&quot; &lt;b>"' in figure.svg
    assert "&lt;&amp;&gt;" in figure.svg and "currentColor" in figure.svg
