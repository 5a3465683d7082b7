"""The report shows the run, opens offline, and takes every name and id for mere text."""

import base64
import io
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from infra.protocol import now
from model.checkpoint import CheckpointManifest
from model.evaluate import Score
from model.palette import voc_palette
from model.provenance import Provenance
from model.recipe import Recipe
from model.recipes import named
from model.verdict import Verdict
from pipeline.champion import Decision, reference
from pipeline.pictures import Picture, overview_png, panels
from pipeline.report import render_report
from pipeline.run_record import StageRecord
from servers.chromium import screenshot

CLASSES = ("background", "aeroplane", "bicycle", "bird")
IOU = {"background": 0.9, "aeroplane": 0.25, "bicycle": None, "bird": 0.5}
STAGES = (
    StageRecord(name="extract", seconds=0.4, reused=True, summary="1 archive"),
    StageRecord(name="train", seconds=75, reused=False, summary="4 epochs"),
)
HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(1)>'
ACCENT, WARM = (0x35, 0x57, 0xD4), (0xD9, 0x66, 0x0F)
MAGENTA = (255, 0, 255)


class Page(HTMLParser):
    """The elements and the text of a page, data URIs apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._style = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._style = tag == "style"

    def handle_data(self, data: str) -> None:
        if data.strip() and not self._style:
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def section(self, heading: str) -> "Page":
        """From the heading of that name to the next one of its rank."""
        return Page(self.html.split(f"<h2>{heading}", 1)[1].split("<h2>", 1)[0])


def manifest(**changes: Any) -> CheckpointManifest:
    values: dict[str, Any] = {
        "run_id": "run-1",
        "wandb_id": "wandb-1",
        "recipe": named("tiny"),
        "classes": CLASSES,
        "dataset_key": "d0" * 16,
        "dataset_digest": "d1" * 32,
        "archives": ("a0" * 32, "a1" * 32),
        "provenance": Provenance(
            code="c0dec0dec0de",
            libraries={"torch": "2.15.0", "numpy": "2.4.6"},
            python="3.11.9",
            processor="Some Processor (AVX512)",
            device="Some GPU",
            precision="bfloat16",
            threads=7,
        ),
        "step": 30,
        "epoch": 3,
        "steps_per_epoch": 10,
        "miou": 0.55,
        "iou": IOU,
        "size": 1_500_000,
        "sha256": "f0" * 32,
        "weights_digest": "f1" * 32,
    }
    return CheckpointManifest(**(values | changes))


def journal(epochs: int = 4, logs: int = 5) -> list[dict[str, Any]]:
    """What training writes: mIoU rises by a tenth an epoch, loss falls."""
    records: list[dict[str, Any]] = [{"kind": "start", "step": 0, "time": 1_795_248_000.0}]
    for epoch in range(1, epochs + 1):
        time = 1_795_248_000.0 + epoch
        for log in range(1, logs + 1):
            at = epoch - 1 + log / logs
            records.append(
                {"kind": "step", "step": 0, "time": time, "epoch": at, "loss": 2 / at, "lr": 0.01}
            )
        scores = {"train_loss": 2 / epoch, "val_loss": 3 / epoch, "miou": 0.1 * epoch, "iou": {}}
        records.append({"kind": "epoch", "step": 0, "time": time, "epoch": epoch, **scores})
        records.append({"kind": "samples", "step": 0, "time": time, "names": []})
        records.append({"kind": "checkpoint", "step": 0, "time": time, "miou": 0.1 * epoch})
    records.append({"kind": "finish", "step": 0, "time": 1_795_248_060.0})
    return records


def picture(name: str = "2007_000032", height: int = 60, width: int = 80) -> Picture:
    """A magenta photo; truth has class 1 on the left and void on the right; prediction class 3."""
    photo = np.full((height, width, 3), MAGENTA, np.uint8)
    truth = np.zeros((height, width), np.uint8)
    truth[:, : width // 4], truth[:, -width // 4 :] = 1, 255
    return Picture(name, photo, truth, np.full((height, width), 3, np.uint8))


def score(iou: dict[str, float | None], **values: Any) -> Score:
    """A score whose Dice follows from its IoU."""
    dice = {name: None if v is None else 2 * v / (1 + v) for name, v in iou.items()}
    return Score(iou=iou, dice=dice, mean_dice=0.612, **values)


def report(**changes: Any) -> Page:
    values: dict[str, Any] = {
        "run_id": "run-1",
        "checkpoint": manifest(),
        "score": score(
            split="val", images=48, miou=0.55, iou=IOU, pixel_accuracy=0.913, loss=0.734
        ),
        "records": journal(),
        "pictures": [picture()],
        "stages": STAGES,
        "left_out": {"unlabelled": 12, "missing": 0},
        "counts": {"train": 200, "val": 48, "test": 0},
        "sources": {},
        "max_side": None,
    }
    return Page(render_report(**(values | changes)))


def curve(page: Page, chart: str, style: str) -> list[tuple[float, float]]:
    """The points of a curve in percent of the plot, from its lower left corner."""
    after = page.html.split(f'aria-label="{chart} by epoch"', 1)[1]
    line = re.search(rf'<polyline class="{style}" points="([^"]*)"', after)
    assert line
    places = [point.split(",") for point in line[1].split()]
    return [(float(x), 100 - float(y)) for x, y in places]


def pixels(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))


def share(image: np.ndarray[Any, np.dtype[np.uint8]], colour: tuple[int, ...], near: int) -> float:
    """The share of the pixels that have that colour, each channel within `near`."""
    return float((np.abs(image.astype(int) - colour) <= near).all(-1).mean())


def test_report_opens_offline_without_scripts() -> None:
    page = report()
    bare = re.sub(r"data:image/\w+;base64,[\w+/=]+", "data:", page.html)
    assert not re.search(r"https?:|//|@import|url\(", bare)
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in page.elements)
    sources = [v for _, attrs in page.elements for k, v in attrs.items() if k in ("src", "href")]
    assert len(sources) == 3
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert "default-src 'none'" in policy


def test_names_and_ids_are_text() -> None:
    classes = ("background", HOSTILE, "bicycle", "bird")
    page = report(
        run_id=HOSTILE,
        checkpoint=manifest(
            classes=classes,
            wandb_id=HOSTILE,
            recipe=Recipe(name=HOSTILE, summary=HOSTILE),
            archives=(HOSTILE,),
        ),
        score=score(
            split=HOSTILE,
            images=1,
            miou=0.5,
            iou={"background": 0.5, HOSTILE: 0.5},
            pixel_accuracy=0.5,
            loss=1,
        ),
        pictures=[picture(HOSTILE)],
        stages=[StageRecord(name=HOSTILE, seconds=1, reused=False, summary=HOSTILE)],
        left_out={HOSTILE: 1},
        counts={HOSTILE: 1},
    )
    assert "script" not in {tag for tag, _ in page.elements}
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert len(page.all("img")) == 3
    assert page.text.count(HOSTILE) >= 13


def test_headline() -> None:
    page = report()
    assert "0.550" in page.text
    for words in (
        "run-1",
        "21 November 2026",
        "200 train , 48 val",
        f"epoch 3 of {named('tiny').epochs}",
        "0.913",
    ):
        assert words in page.text
    assert " test" not in page.text.split("Validation samples")[0]


def test_every_stage_with_its_time() -> None:
    page = report().section("Stages")
    assert page.text.startswith("1 min 15 s together")
    assert "extract 0.4 s reused 1 archive train 1 min 15 s 4 epochs" in page.text
    widths = [bar["style"] for bar in page.all("i")]
    assert widths == ["width:0.53%", "width:100.0%"]


def test_nothing_has_no_bar() -> None:
    stages = [STAGES[1], StageRecord(name="separate", seconds=0.04, reused=True, summary="")]
    iou = {**IOU, "bird": 0.0}
    found = score(split="val", images=48, miou=0.4, iou=iou, pixel_accuracy=0.9, loss=1)
    page = report(stages=stages, score=found)
    assert "separate 0.0 s" in page.text
    assert "bird 0.000" in page.text
    bars = [i["style"] for i in page.all("i") if "width" in i.get("style", "")]
    assert bars == ["width:90.0%", "width:25.0%", "width:100.0%"]


def test_the_input_is_named_where_it_is_known() -> None:
    page = report(sources={"a1" * 32: "https://host/voc.tar"}, max_side=96).section("Provenance")
    assert f"archive, sha256 {'a0' * 32} archive https://host/voc.tar archive, sha256" in page.text
    assert "classes 4 longest side 96 pixels at most" in page.text
    page = report().section("Provenance")
    assert "longest side" not in page.text
    assert "archive https" not in page.text


def test_classes_are_sorted_by_iou_and_absent_ones_named() -> None:
    page = report().section("IoU by class")
    assert page.text.startswith("background 0.900 bird 0.500 aeroplane 0.250")
    assert page.text.endswith("Not in the validation set: bicycle")
    swatches = [i["style"] for i in page.all("i") if i.get("class") == "swatch"]
    assert swatches == ["background:#000000", "background:#808000", "background:#800000"]


def test_no_class_occurs() -> None:
    nothing = score(
        split="val",
        images=1,
        miou=0.0,
        iou=dict.fromkeys(CLASSES),
        pixel_accuracy=0.0,
        loss=1,
    )
    page = report(score=nothing).section("IoU by class")
    assert page.text == f"Not in the validation set: {', '.join(CLASSES)}"


@pytest.mark.parametrize("records", [[], journal()[:1]], ids=["none", "start only"])
def test_without_curves_everything_else_stands(records: list[dict[str, Any]]) -> None:
    page = report(records=records, pictures=[], stages=[])
    assert not page.all("polyline")
    assert "0.550" in page.text
    assert "f0" * 32 in page.text


def test_curves_are_to_scale() -> None:
    page = report()
    miou = curve(page, "mIoU", "val")
    assert [x for x, _ in miou] == [25, 50, 75, 100]
    assert [y for _, y in miou] == pytest.approx([25, 50, 75, 100])
    assert len(curve(page, "Loss", "steps")) == 20
    train, val = curve(page, "Loss", "train"), curve(page, "Loss", "val")
    assert [high / low for (_, low), (_, high) in zip(train, val, strict=True)] == pytest.approx(
        [1.5] * 4, rel=0.01
    )
    assert {y for _, y in curve(page, "Learning rate", "train")} == {100}
    legend = page.html.split(">mIoU <", 1)[1].split("</figcaption>", 1)[0]
    assert "kept: epoch 3" in legend  # where no curve and no other word can be in its way
    assert page.text.count("kept: epoch 3") == 1


@pytest.mark.parametrize(
    ("over", "champion"),
    [("000001-261121-4k2ra-abcde", "run 261121-4k2ra"), (None, "all background")],
)
def test_the_champion_that_it_was_held_against_is_named(over: str | None, champion: str) -> None:
    verdict = Verdict(
        images=48, challenger=0.55, champion=0.5, low=0.01, high=0.09, confidence=0.95, margin=0,
        by_class={"bird": (0.5, 0.4)}, worse=(),
    )  # fmt: skip
    decision = Decision(
        name="000002-run-1-abcde", number=2, kind="promoted", time=now(), over=over,
        checkpoint=reference(manifest()), verdict=verdict, said="it is better",
    )  # fmt: skip
    page = report(decision=decision, disputes=[picture()]).section("Promoted")
    assert f"Champion, {champion} 0.5000" in page.text
    if over:
        assert f"disagree most champion: {champion}" in page.text


def test_long_training_is_thinned_and_infinite_values_left_out() -> None:
    records = journal(epochs=500, logs=10)
    records[1]["loss"] = math.inf
    records[2]["loss"] = math.nan
    steps = curve(report(records=records), "Loss", "steps")
    assert len(steps) == 400
    assert steps[-1][0] == 100
    assert all(0 <= y <= 100 for _, y in steps)


def test_one_epoch_is_visible_as_a_dot() -> None:
    page = report(records=journal(epochs=1, logs=1))
    dots = [span["class"] for span in page.all("span") if "dot" in span.get("class", "")]
    assert {"dot steps", "dot train", "dot val"} <= set(dots)


def test_provenance_is_complete() -> None:
    page = report().section("Provenance")
    for words in (
        *("f0" * 32, "f1" * 32, "d0" * 16, "d1" * 32, "a0" * 32, "a1" * 32),
        *("c0dec0dec0de", "torch 2.15.0, numpy 2.4.6", "3.11.9", "Some Processor (AVX512)"),
        *("Some GPU", "bfloat16", "threads 7", "wandb-1", "seed 0", "1.5 MB", "12 unlabelled"),
    ):
        assert words in page.text
    assert "missing" not in page.text
    assert f"dataset key hash of what went in {'d0' * 16}" in page.text
    assert f"dataset digest hash of the content {'d1' * 32}" in page.text
    assert "code sha256 of model/ c0dec0dec0de" in page.text


def test_every_setting_is_listed_and_overrides_stand_out() -> None:
    recipe = named("tiny").override({"lr": 0.5})
    page = report(checkpoint=manifest(recipe=recipe)).section("Provenance")
    assert "lr 0.5 instead of 0.008" in page.text
    assert page.text.count("instead of") == 1
    assert "scale 0.8,1.25" in page.text
    assert all(f"{key} " in page.text for key in Recipe.model_fields.keys() - {"name", "summary"})


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [(72, 96, (480, 360)), (375, 500, (500, 375)), (900, 600, (333, 500)), (1, 1, (500, 500))],
)
def test_samples_are_brought_to_one_size(height: int, width: int, shown: tuple[int, int]) -> None:
    page = report(pictures=[picture("s", height, width)])
    for image in page.all("img"):
        data = base64.b64decode(image["src"].split(",", 1)[1])
        assert PIL.Image.open(io.BytesIO(data)).size == shown
    assert page.section("Validation samples").text.endswith("bird s")


def test_eight_large_samples_stay_under_three_megabytes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    photo = np.asarray(PIL.Image.fromarray(noise).resize((800, 600)))
    pictures = [picture(str(n), 600, 800)._replace(photo=photo) for n in range(8)]
    assert len(report(pictures=pictures).html) < 3_000_000


def test_samples_name_the_classes_in_them() -> None:
    assert (
        report()
        .section("Validation samples")
        .text.endswith("photo truth prediction aeroplane bird 2007_000032")
    )


def test_panels_paint_classes_over_the_faded_photo() -> None:
    photo, truth, prediction = panels(picture(), 240, 180)
    assert photo.shape == truth.shape == prediction.shape == (180, 240, 3)
    assert (photo == MAGENTA).all()
    background = truth[90, 120].astype(int)
    assert background[0] == background[1] == background[2] > 128
    red, green, blue = truth[90, 30].astype(int)  # aeroplane is (128, 0, 0)
    assert red > green + 60
    assert green == blue
    # The rim between a class and what is beside it is the pure colour.
    assert (truth[90, 59] == voc_palette()[1]).all()
    void = truth[60:120, 190:230].reshape(-1, 3)
    assert void.min() > 170
    assert len(np.unique(void, axis=0)) == 2  # a hatch
    assert (prediction[90, 30] == prediction[90, 210]).all()


def test_overview_shows_all_samples_in_two_columns() -> None:
    image = pixels(overview_png([picture(str(n)) for n in range(12)], CLASSES))
    height, width, _ = image.shape
    assert width == 2 * (3 * 200 + 2 * 6) + 40 + 2 * 32
    assert 4 * 150 < height < 4 * 150 + 250  # eight of them, each 150 high
    for column in (32, 32 + 612 + 40):
        for row in range(4):
            middle = 60 + 168 * row + 75
            assert tuple(image[middle, column + 100]) == MAGENTA
            assert image[middle, column + 206 + 20, 0] > image[middle, column + 206 + 20, 1] + 60
    legend = image[60 + 4 * 168 :]
    assert share(legend, tuple(voc_palette()[1]), 0) > 0
    assert share(legend, tuple(voc_palette()[3]), 0) > 0
    assert share(legend, tuple(voc_palette()[2]), 0) == 0


def test_overview_takes_any_class_name() -> None:
    names = ("background", "two\nlines", "bicycle", "b" * 500)
    assert pixels(overview_png([picture()], names)).shape[1] == 3 * 200 + 2 * 6 + 2 * 32


@pytest.mark.parametrize("count", [0, 1, 3])
def test_overview_of_few_samples(count: int) -> None:
    image = pixels(overview_png([picture("tall", 300, 20)] * count, CLASSES))
    assert (share(image, MAGENTA, 0) > 0) == (count > 0)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_browser_shows_curves_and_samples(tmp_path: Path, dark: bool) -> None:
    html = report().html
    # The same page once more without what is looked for: the rest has colours too.
    bare = html.replace("</style>", "img, polyline { visibility: hidden }</style>")
    (tmp_path / "whole.html").write_text(html)
    (tmp_path / "bare.html").write_text(bare)
    shown = []
    for name in ("whole", "bare"):
        file = tmp_path / f"{name}.png"
        screenshot(tmp_path / f"{name}.html", file, width=1280, height=1400, dark=dark)
        shown.append(pixels(file.read_bytes()))
    whole, without = shown
    assert whole.shape == without.shape == (1400, 1280, 3)
    paper = whole[5, 5].astype(int)
    assert paper.max() < 60 if dark else paper.min() > 230

    def gained(colour: tuple[int, ...]) -> float:
        return (share(whole, colour, 12) - share(without, colour, 12)) * 1400 * 1280

    # The photo is a sixth of the page's width; in the dark it is shown a little dimmer.
    assert gained((224, 0, 224) if dark else MAGENTA) == pytest.approx(178 * 133, rel=0.1)
    # Two pixels thick; validation loss is three quarters of a wide plot, mIoU of a narrow one.
    assert gained((0xFF, 0xA0, 0x5C) if dark else WARM) > 1000


def test_phone_sees_the_whole_width(tmp_path: Path) -> None:
    wide = StageRecord(name="train", seconds=3, reused=True, summary="x" * 200)
    page = report(run_id="run-" * 60, stages=[wide])
    (tmp_path / "report.html").write_text(page.html)
    file = tmp_path / "phone.png"
    screenshot(tmp_path / "report.html", file, width=390, height=3000)
    image = pixels(file.read_bytes())
    assert (image[:, -8:] == image[0, 0]).all()
    assert share(image, ACCENT, 12) > 0.001


def test_report_does_not_load_torch() -> None:
    code = "import sys, pipeline.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
