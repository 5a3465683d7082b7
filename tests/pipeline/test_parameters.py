"""The parameters of a run: what is wrong is refused before anything starts."""

from typing import Any

import pytest
from pydantic import ValidationError

from model.errors import InputError
from pipeline.cli.options import Photos, parameters_of
from pipeline.layouts.layout import Layout
from pipeline.parameters import (
    VOC_CLASSES,
    Limits,
    Parameters,
    default_classes,
    default_store,
)

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
        ({"layout": {"kind": "zip"}}, "layout.kind: "),
        ({"layout": {"photo": "x"}}, "layout.photo: "),
        ({"layout": {"val_share": 0}}, "layout.val_share: "),
        ({"layout": {"val_share": "1"}}, "layout.val_share: "),
        ({"layout": {"val_share": "nan"}}, "layout.val_share: "),
        ({"layout": {"group": "(a"}}, "'(a' is no regular expression"),
        ({"layout": {"group": "a"}}, "'a' has 0 groups instead of one"),
        ({"layout": {"group": "(a)(b)"}}, "has 2 groups instead of one"),
        ({"layout": {"group": "(a)" + "b" * 198}}, "layout.group: "),
        ({"layout": {"photos": ""}}, "layout.photos: Value error, a folder needs a name"),
        ({"layout": {"photos": "."}}, "layout.photos: Value error, a folder needs a name"),
        ({"layout": {"masks": "../masks"}}, "layout.masks: Value error, climbs out of its"),
        ({"layout": {"masks": "/etc"}}, "layout.masks: Value error, is an absolute path"),
        ({"layout": {"masks": "\x1b[2J"}}, "layout.masks: Value error, contains a backslash, or"),
        ({"layout": {"masks": "images"}}, "layout: Value error, photos and masks must be two"),
        ({"layout": {"masks": "images/m"}}, "layout: Value error, photos and masks must be two"),
        ({"layout": {"photos": "masks/m"}}, "layout: Value error, photos and masks must be two"),
        ({"layout": {"mask_suffix": "/x"}}, "'/x' cannot be part of a file's name"),
        ({"layout": {"mask_suffix": "\x9b"}}, r"'\x9b' cannot be part of a file's name"),
        (
            {"layout": {"kind": "carvana", "photos": "x"}},
            "carvana has folders and names of its own",
        ),
        ({"layout": {"kind": "devkit", "group": "(x)"}}, "devkit has folders and names of its own"),
        ({"layout": {"mask_values": "0"}}, "layout.mask_values: "),
        ({"layout": {"mask_values": "0,1,256"}}, "layout.mask_values.2: "),
        ({"layout": {"mask_values": "0,1,-1"}}, "layout.mask_values.2: "),
        ({"layout": {"mask_values": "0,1,x"}}, "layout.mask_values.2: "),
        ({"layout": {"mask_values": "0,0"}}, "no two classes can have the same value"),
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
        ({"rental": {"prepare_on": "moon"}}, "'moon' is none of local, linode and dask, and no"),
        ({"rental": {"prepare_on": "tcp://host"}}, "no address of a Dask scheduler, which is like"),
        ({"rental": {"prepare_on": "linode"}}, "prepare_on linode goes with machine linode"),
        (
            {"machine": "linode", "rental": {"prepare_on": "dask", "route": "volume"}},
            "the dataset is built on the machine that has it; take the one by a bucket",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], said: str) -> None:
    assert said in refusal(**values)


@pytest.mark.parametrize("place", ["dask", "tcp://10.0.0.5:8786", "tls://[::1]:8786"])
@pytest.mark.parametrize("machine", ["local", "linode"])
def test_workers_of_dask_prepare_for_any_machine(machine: str, place: str) -> None:
    assert not parameters(machine=machine, rental={"prepare_on": place}).prepared_elsewhere


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


@pytest.mark.parametrize(
    ("recipe", "classes"),
    [
        ("people-unet11", ("background", "person")),
        ("people-resnet34-unet", ("background", "person")),
        ("carvana-unet", ("background", "car")),
        ("simple-fcn", ("background", "object")),
        ("voc-unet", VOC_CLASSES),
        ("tiny", VOC_CLASSES),
    ],
)
def test_the_classes_that_a_recipe_is_for(recipe: str, classes: tuple[str, ...]) -> None:
    assert default_classes(recipe) == classes


def test_named_classes_win_over_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(default_classes.__globals__["_THING"], "tiny", "speck")
    assert parameters(recipe="tiny").classes == ("background", "speck")
    assert parameters(recipe="tiny", classes=()).classes == ("background", "speck")
    assert parameters(recipe="tiny", classes=("no", "yes")).classes == ("no", "yes")
    assert parameters().classes == VOC_CLASSES


def test_parameters_survive_the_way_to_another_machine() -> None:
    layout = Layout(kind="folders", photos="p", group="(.).*", mask_values=(0, 255))
    for sent in (parameters(layout=layout), parameters(layout={"kind": "carvana"}), parameters()):
        assert Parameters.model_validate_json(sent.model_dump_json()) == sent


def test_a_layout_as_it_is_typed() -> None:
    def typed(*texts: str) -> Layout:
        return parameters_of(Photos(archives=["http://host/a.tar"], layout=list(texts))).layout

    assert typed() == Layout()
    assert typed("carvana") == typed("kind=carvana") == Layout(kind="carvana")
    assert typed("folders", "photos=p q", "group=(.+)=.*", "val_share=0.25") == Layout(
        kind="folders", photos="p q", group="(.+)=.*", val_share=0.25
    )
    assert typed("mask_values=0, 128,255").mask_values == (0, 128, 255)
    with pytest.raises(InputError, match="layout.kind: must be 'auto', 'devkit', 'carv"):
        typed("voc")
    with pytest.raises(
        InputError,
        match=r"--layout has no setting 'mask'\. Did you mean 'masks'\? There are: kind, photos",
    ):
        typed("mask=x")
