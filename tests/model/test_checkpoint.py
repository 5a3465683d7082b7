"""Checkpoints: whole or absent, harmless to load, and the same by the same weights."""

import hashlib
import pickle
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import checkpoint
from model.checkpoint import BLOB, MANIFEST, Description
from model.errors import InputError
from model.provenance import Provenance
from tiny import CLASSES, RECIPE

WEIGHTS = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b.bias": torch.ones(3, dtype=torch.bfloat16),
    "c.count": torch.tensor(5),
}


def describe(step: int, miou: float | None = None) -> Description:
    return Description(
        run_id="run",
        wandb_id="run",
        recipe=RECIPE,
        classes=CLASSES,
        dataset_key="0" * 64,
        dataset_digest="1" * 64,
        archives=("2" * 64,),
        provenance=Provenance(
            code="abc",
            libraries={"torch": "2"},
            python="3.11",
            processor="a",
            device="cpu",
            precision="float32",
            threads=1,
        ),
        step=step,
        epoch=step // 2,
        steps_per_epoch=2,
        miou=miou,
        iou={"background": miou, "green": None},
    )


def save(folder: Path, step: int, miou: float | None = None) -> Path:
    checkpoint.save(folder, describe(step, miou), {"net": WEIGHTS})
    return folder / f"{step:08d}"


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name[0] in "0123456789")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = save(tmp_path, 4, 0.5)
    description, state = checkpoint.load(saved / BLOB)
    assert description == describe(4, 0.5)
    assert state.keys() == {"net"}
    assert checkpoint.weights_digest(state["net"]) == checkpoint.weights_digest(WEIGHTS)


def test_the_manifest_describes_the_blob(tmp_path: Path) -> None:
    saved = save(tmp_path, 4, 0.5)
    manifest = checkpoint.verified(saved)
    assert manifest is not None
    assert manifest.sha256 == checkpoint.file_sha256(saved / BLOB)
    assert manifest.size == (saved / BLOB).stat().st_size
    assert manifest.weights_digest == checkpoint.weights_digest(WEIGHTS)
    assert Description(**manifest.model_dump(include=set(Description.model_fields))) == describe(
        4, 0.5
    )


# Loading


class Plant:
    """Unpickled without care, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / BLOB
    state = {"description": describe(0).model_dump_json(), "net": Plant(canary)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="not a whole checkpoint"):
        checkpoint.load(path)
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists()  # the plant does work


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return (save(tmp_path_factory.mktemp("whole"), 1) / BLOB).read_bytes()


@given(share=st.floats(0, 0.999))
@settings(deadline=None, max_examples=40)
def test_a_truncated_file_is_refused(
    whole: bytes, share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / BLOB
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match="not a whole checkpoint"):
        checkpoint.load(path)


@given(data=st.binary(max_size=200) | st.text(max_size=80).map(str.encode))
@settings(deadline=None, max_examples=150)
def test_any_other_bytes_are_refused(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("bytes") / BLOB
    for content in (data, b"\x80\x02" + data, pickle.dumps(data)):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a whole checkpoint"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    "foreign",
    [
        WEIGHTS,
        [torch.ones(1)],
        torch.ones(1),
        {"description": 5, "net": {}},
        {"description": describe(0).model_dump_json()},
        {"net": WEIGHTS, "epoch": 3},
        7,
    ],
    ids=["weights", "list", "tensor", "number", "no net", "no description", "int"],
)
def test_a_foreign_file_is_refused(tmp_path: Path, foreign: object) -> None:
    torch.save(foreign, tmp_path / BLOB)
    with pytest.raises(InputError, match=BLOB):
        checkpoint.load(tmp_path / BLOB)


def test_a_zip_that_is_none_of_torchs_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / BLOB, "w") as file:
        file.writestr("a.txt", "hello")
    with pytest.raises(InputError, match="not a whole checkpoint"):
        checkpoint.load(tmp_path / BLOB)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    newer = describe(0).model_copy(update={"format": checkpoint.FORMAT + 1})
    checkpoint.save(tmp_path, newer, {"net": WEIGHTS})
    with pytest.raises(InputError, match="newer voc-train"):
        checkpoint.load(tmp_path / "00000000" / BLOB)


def test_a_description_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    torch.save({"description": '{"format": 1, "step": "x"}', "net": {}}, tmp_path / BLOB)
    with pytest.raises(InputError, match="another version"):
        checkpoint.load(tmp_path / BLOB)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint .*nowhere"):
        checkpoint.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a folder"):
        checkpoint.load(save(tmp_path, 1))


# The weights digest


def test_the_digest_ignores_order_file_and_memory_layout(tmp_path: Path) -> None:
    backwards = OrderedDict(reversed(WEIGHTS.items()))
    backwards["a.weight"] = WEIGHTS["a.weight"].T.contiguous().T
    assert not backwards["a.weight"].is_contiguous()
    digest = checkpoint.weights_digest(WEIGHTS)
    assert checkpoint.weights_digest(backwards) == digest
    torch.save(backwards, tmp_path / "another name")
    assert checkpoint.weights_digest(torch.load(tmp_path / "another name")) == digest


def test_the_digest_is_the_documented_one() -> None:
    digest = hashlib.sha256()
    for name, dtype, shape in (
        ("a.weight", "torch.float32", "(3, 4)"),
        ("b.bias", "torch.bfloat16", "(3,)"),
        ("c.count", "torch.int64", "()"),
    ):
        digest.update(f"{name}\n{dtype}\n{shape}\n".encode())
        digest.update(bytes(WEIGHTS[name].untyped_storage()))
    assert checkpoint.weights_digest(WEIGHTS) == digest.hexdigest()


def flipped_bit() -> dict[str, torch.Tensor]:
    weight = WEIGHTS["a.weight"].clone()
    weight.view(torch.uint8)[0, 0] ^= 1
    return WEIGHTS | {"a.weight": weight}


@pytest.mark.parametrize(
    "other",
    [
        flipped_bit(),
        {("d" if k == "b.bias" else k): v for k, v in WEIGHTS.items()},
        WEIGHTS | {"a.weight": WEIGHTS["a.weight"].reshape(4, 3)},
        WEIGHTS | {"b.bias": WEIGHTS["b.bias"].view(torch.int16)},
        {k: v for k, v in WEIGHTS.items() if k != "c.count"},
        WEIGHTS | {"e": torch.empty(0)},
    ],
    ids=["bit", "name", "shape", "dtype", "fewer", "an empty one more"],
)
def test_the_digest_sees_every_difference(other: dict[str, torch.Tensor]) -> None:
    assert checkpoint.weights_digest(other) != checkpoint.weights_digest(WEIGHTS)


# Which count


@pytest.mark.parametrize("file", [BLOB, MANIFEST])
def test_damaged_is_not_verified(tmp_path: Path, file: str) -> None:
    saved = save(tmp_path, 1)
    (saved / file).write_bytes((saved / file).read_bytes()[:-9])
    assert checkpoint.verified(saved) is None


@pytest.mark.parametrize("file", [BLOB, MANIFEST])
def test_half_is_not_verified(tmp_path: Path, file: str) -> None:
    saved = save(tmp_path, 1)
    (saved / file).unlink()
    assert checkpoint.verified(saved) is None
    assert checkpoint.newest(tmp_path) is None


def test_newest_is_the_newest_that_verifies(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    first, second, third = save(tmp_path, 9), save(tmp_path, 10), save(tmp_path, 100_000_000)
    assert checkpoint.newest(tmp_path) == third
    damage(third / BLOB)
    assert checkpoint.newest(tmp_path) == second
    damage(second / BLOB)
    assert checkpoint.newest(tmp_path) == first


def test_best_is_the_best_that_verifies_and_the_newest_of_equals(tmp_path: Path) -> None:
    assert checkpoint.best(tmp_path) is None
    save(tmp_path, 1)
    assert checkpoint.best(tmp_path) is None
    low, high, equal = save(tmp_path, 2, 0.0), save(tmp_path, 3, 0.5), save(tmp_path, 4, 0.5)
    save(tmp_path, 5, 0.4)
    assert checkpoint.best(tmp_path) == equal
    damage(equal / BLOB)
    assert checkpoint.best(tmp_path) == high
    shutil.rmtree(high)
    shutil.rmtree(tmp_path / "00000005")
    assert checkpoint.best(tmp_path) == low


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([0.1, 0.5, 0.3, 0.4], [1, 3]),
        ([0.1, 0.2, 0.3], [2]),
        ([0.5, 0.5, 0.5, 0.1], [2, 3]),
        ([0.5, None, 0.2, None], [0, 3]),
        ([0.0, None, None], [0, 2]),
        ([None, None], [1]),
        ([], []),
    ],
)
def test_only_best_and_last_are_kept(
    tmp_path: Path, scores: list[float | None], kept: list[int]
) -> None:
    for step, miou in enumerate(scores):
        save(tmp_path, step, miou)
    checkpoint.keep_best_and_last(tmp_path)
    assert steps(tmp_path) == kept


# Atomicity


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", ["blob", "manifest"])
def test_a_crash_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    earlier = save(tmp_path, 1, 0.5)

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, "write_text") if after == "blob" else (Path, "rename")), die)
        with pytest.raises(Killed):
            save(tmp_path, 2, 0.9)
    assert steps(tmp_path) == [1]
    assert checkpoint.newest(tmp_path) == checkpoint.best(tmp_path) == earlier
    checkpoint.keep_best_and_last(tmp_path)
    assert checkpoint.verified(earlier)
    again = save(tmp_path, 2, 0.9)
    assert checkpoint.newest(tmp_path) == again
    assert steps(tmp_path) == [1, 2]


def test_a_damaged_checkpoint_is_replaced(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    damage(saved / BLOB)
    save(tmp_path, 1)
    assert checkpoint.verified(saved)


def test_bytes_that_are_no_manifest() -> None:
    for data in (b"", b"{}", b"\xff", b'{"format": 1}'):
        assert checkpoint.parse_manifest(data) is None
