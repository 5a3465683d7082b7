"""Two nets on the same images: the same scores as alone, and pictures of where they disagree."""

from pathlib import Path

import pytest

from model import checkpoint
from model.compare import SHOWN, compare
from model.dataset import Dataset
from model.errors import InputError
from model.evaluate import evaluate_checkpoint
from model.train import train
from tiny import RECIPE, write_dataset, write_job


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Trained for one epoch, and for six, on the same."""
    folders = []
    for epochs in (1, 6):
        folder = write_job(tmp_path_factory.mktemp("job"), epochs=epochs)
        train(folder, run_id=f"run{epochs}")
        folders.append(folder)
    return folders


def blob(job: Path) -> Path:
    best = checkpoint.best(job / "out" / "checkpoints")
    assert best
    return best / checkpoint.BLOB


def test_each_scores_as_it_does_alone(jobs: list[Path]) -> None:
    challenger, champion = map(blob, jobs)
    data = Dataset(jobs[0] / "dataset", "val")
    verdict = compare(challenger, champion, data, RECIPE).verdict
    alone = [
        evaluate_checkpoint(path, jobs[0] / "dataset").score for path in (challenger, champion)
    ]
    assert [verdict.challenger, verdict.champion] == [
        pytest.approx(score.miou, abs=1e-12) for score in alone
    ]
    for name, (ours, theirs) in verdict.by_class.items():
        assert ours == pytest.approx(alone[0].iou[name])
        assert theirs == pytest.approx(alone[1].iou[name])
    assert verdict.images == len(data)


def test_against_background_everywhere(jobs: list[Path]) -> None:
    data = Dataset(jobs[1] / "dataset", "val")
    verdict = compare(blob(jobs[1]), None, data, RECIPE).verdict
    share, *others = (theirs for _, theirs in verdict.by_class.values())
    assert share is not None
    assert 0 < share < 1
    assert others == [0, 0]
    assert verdict.worse == ()  # though its background is better than the net's


def test_the_pictures_are_of_most_disagreement(jobs: list[Path]) -> None:
    data = Dataset(jobs[0] / "dataset", "val")
    disputes = compare(blob(jobs[0]), blob(jobs[1]), data, RECIPE).disputes
    shares = [one.share for one in disputes]
    assert shares == sorted(shares, reverse=True)
    assert 0 < len(disputes) <= SHOWN
    for one in disputes:
        mask = data[one.position].mask
        assert ((one.challenger != one.champion) & (mask != 255)).mean() == pytest.approx(one.share)


def test_nobody_disagrees_with_itself(jobs: list[Path]) -> None:
    data = Dataset(jobs[0] / "dataset", "val")
    assert compare(blob(jobs[0]), blob(jobs[0]), data, RECIPE).disputes == ()


def test_only_the_named_images_count(jobs: list[Path]) -> None:
    data = Dataset(jobs[0] / "dataset", "val")
    ids = {sample.id for sample in data.samples[1:3]}
    comparison = compare(blob(jobs[0]), blob(jobs[1]), data, RECIPE, only=ids)
    assert comparison.verdict.images == 2
    assert {one.position for one in comparison.disputes} <= {1, 2}


def test_other_classes_are_refused(jobs: list[Path], tmp_path: Path) -> None:
    write_dataset(tmp_path / "other", classes=("background", "cat", "dog"))
    with pytest.raises(InputError, match="cannot be compared"):
        compare(blob(jobs[0]), None, Dataset(tmp_path / "other", "val"), RECIPE)
