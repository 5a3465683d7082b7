"""Loading a checkpoint: whatever else the file is, it is refused in words and runs nothing."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints import WEIGHTS, describe, save
from model import checkpoint
from model.checkpoint import BLOB
from model.errors import InputError


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
