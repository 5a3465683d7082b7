"""The parameters of a run: what is wrong is refused before anything starts."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.parameters import VOC_CLASSES, Limits, Parameters, default_store

ARCHIVE = "/data/voc.tar"


def parameters(**values: Any) -> Parameters:
    return Parameters(**{"archives": (ARCHIVE,)} | values)


def refusal(**values: Any) -> str:
    """The one thing that is wrong, and where."""
    with pytest.raises(ValidationError) as caught:
        parameters(**values)
    (problem,) = caught.value.errors()
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def test_defaults() -> None:
    chosen = parameters()
    assert chosen.classes == VOC_CLASSES
    assert len(VOC_CLASSES) == 21
    assert chosen.store == default_store()
    assert chosen.store.startswith("file:///")


def test_limits_in_the_units_of_who_keeps_them() -> None:
    limits = Limits(archive_gb=0.5, photo_megapixels=2.5, shard_mb=3)
    assert limits.archive_bytes == 500_000_000
    assert limits.photo_pixels == 2_500_000
    assert limits.shard_bytes == 3 << 20


def test_overrides_reach_the_recipe() -> None:
    recipe = parameters(
        recipe="tiny", overrides={"epochs": "3", "scale": "0.5,2"}
    ).resolved_recipe()
    assert (recipe.name, recipe.epochs, recipe.scale) == ("tiny", 3, (0.5, 2.0))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"recipe": "tini"}, "There is no recipe 'tini'. Did you mean 'tiny'?"),
        ({"overrides": {"epoch": 3}}, "no setting 'epoch'. Did you mean 'epochs'?"),
        ({"overrides": {"name": "mine"}}, "no setting 'name'"),
        ({"overrides": {"epochs": "0"}}, "epochs='0' does not fit"),
        ({"overrides": {"lr": "fast"}}, "lr='fast' does not fit"),
        ({"overrides": {"lr": "nan"}}, "lr='nan' does not fit"),
        ({"archives": ()}, "archives: "),
        ({"max_side": 7}, "max_side: "),
        ({"max_side": 65_536}, "max_side: "),
        ({"workers": -1}, "workers: "),
        ({"device": "gpu"}, "device: "),
        ({"machine": "moon"}, "machine: "),
        ({"wandb": "sometimes"}, "wandb: "),
        ({"classes": ("only",)}, "classes: "),
        ({"classes": ("cat", "cat")}, "no two the same"),
        ({"classes": ("cat", "")}, "every class needs a name"),
        ({"classes": ("cat", "\x1b[2Jdog")}, r"name '\x1b[2Jdog' has invisible or control"),
        ({"classes": ("cat", "\u202egod")}, r"name '\u202egod' has invisible or control"),
        ({"classes": tuple(map(str, range(255)))}, "classes: "),
        ({"epochs": 3}, "epochs: "),
        ({"limits": {"hours": 3}}, "limits.hours: "),
        ({"limits": {"train_hours": 0}}, "limits.train_hours: "),
        ({"limits": {"train_hours": 721}}, "limits.train_hours: "),
        ({"limits": {"train_hours": "nan"}}, "limits.train_hours: "),
        ({"limits": {"archive_gb": "-1"}}, "limits.archive_gb: "),
        ({"limits": {"archive_gb": "inf"}}, "limits.archive_gb: "),
        ({"limits": {"photo_megapixels": 179}}, "limits.photo_megapixels: "),
        ({"limits": {"shard_mb": 0}}, "limits.shard_mb: "),
        ({"limits": {"shard_mb": 4097}}, "limits.shard_mb: "),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], said: str) -> None:
    assert said in refusal(**values)


def test_as_many_classes_as_a_mask_can_hold() -> None:
    assert len(parameters(classes=tuple(map(str, range(254)))).classes) == 254


SECRETS = [
    "https://anna:hunter2@host/voc.tar",
    "https://hunter2@host/voc.tar",
    "https://anna:hunter2@host",
    "s3://hunter2:secret@bucket/voc.tar",
    "simplecache::https://anna:hunter2@host/voc.tar",
    "https://host/voc.tar?X-Amz-Algorithm=a&X-Amz-Signature=hunter2",
    "https://host/voc.tar?x-goog-signature=hunter2#sha256=" + "0" * 64,
    "https://host/voc.tar?sv=1&sig=hunter2",
    "https://host/voc.tar?access_token=hunter2",
    "simplecache::https://host/voc.tar?Signature=hunter2",
    "https://host/voc.tar#token=hunter2",
    "https://host/voc.tar?part=1#access_token=hunter2#sha256=" + "0" * 64,
    "https://host/voc.tar?%73ig=hunter2",
    "https://anna:hunter2/and?more#here@host/voc.tar",
]


@pytest.mark.parametrize("url", SECRETS)
@pytest.mark.parametrize("field", ["archives", "store"])
def test_secrets_in_urls_are_refused_and_not_repeated(field: str, url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parameters(**{field: (ARCHIVE, url) if field == "archives" else url})
    said = str(caught.value)
    assert "contains a secret" in said
    assert "the worker's environment" in said
    assert "hunter2" not in said
    assert "hunter2" not in caught.value.errors()[0]["msg"]


def test_a_secret_in_the_default_store_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOC_TRAIN_STORE", "s3://key:hunter2@bucket")
    assert "store: Value error, the URL of bucket contains a secret" in refusal()


@pytest.mark.parametrize(
    "url",
    [
        "/data/a@b/voc.tar",
        "file:///data/voc.tar",
        "https://host/get?file=voc.tar&version=2&author=me&monkey=3",
        "https://host:8080/a@b/voc.tar",
        "http://[::1]:8080/a@b/voc.tar#part=2",
        "s3://bucket/voc@2.tar#sha256=" + "0" * 64,
    ],
)
def test_urls_without_secrets_are_taken(url: str) -> None:
    assert parameters(archives=(url,)).archives == (url,)
