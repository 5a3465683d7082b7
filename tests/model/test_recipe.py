"""Recipes: frozen, checked, changed by text, and the same after a trip through JSON."""

from typing import Any

import pytest
from pydantic import ValidationError

from model.errors import InputError
from model.nets import build_net
from model.recipe import Recipe, Size, as_typed
from model.recipes import RECIPES, named

TINY = RECIPES["tiny"]


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        ("3", "epochs", 3),
        ("1e-4", "lr", 1e-4),
        ("false", "channels_last", False),
        ("0.5,1.5", "scale", (0.5, 1.5)),
        ("(0.5, 1.5)", "scale", (0.5, 1.5)),
        ("[0.5,1.5]", "scale", (0.5, 1.5)),
        ("jaccard", "loss", "jaccard"),
        ("bf16", "precision", "bf16"),
        ("32x48", "image_size", Size(32, 48)),
        ("64", "image_size", Size(64, 64)),
        ("(32, 48)", "image_size", Size(32, 48)),
        ("0.75,1", "multi_scale", (0.75, 1.0)),
        ("2", "multi_scale", (2.0,)),
        ("none", "multi_scale", ()),
        ("none", "clip", None),
        ("vgg16", "encoder", "vgg16"),
        ("none", "min_miou", None),
        ("None", "min_miou", None),
        ("0.5", "min_miou", 0.5),
    ],
)
def test_overrides_as_typed(typed: str, key: str, value: object) -> None:
    changed = TINY.override({key: typed})
    assert getattr(changed, key) == value
    assert changed.model_dump() == TINY.model_dump() | {key: value}


@pytest.mark.parametrize(
    ("key", "meant"), [("epoch", "epochs"), ("batchsize", "batch_size"), ("widht", "width")]
)
def test_an_unknown_setting_suggests_the_known_one(key: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"no setting '{key}'. Did you mean '{meant}'?"):
        TINY.override({key: "1"})


@pytest.mark.parametrize("key", ["xyzzy", "name", "summary"])
def test_an_unknown_setting_lists_the_known_ones(key: str) -> None:
    with pytest.raises(InputError, match=f"{key}.*There are: .*batch_size.*width"):
        TINY.override({key: "1"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", "0"),
        ("epochs", "many"),
        ("epochs", "1.5"),
        ("lr", "-1"),
        ("lr", "nan"),
        ("lr", "inf"),
        ("clip", "nan"),
        ("clip", "0"),
        ("width", "0"),
        ("depth", "7"),
        ("batch_size", "0"),
        ("image_size", "4"),
        ("seed", "-1"),
        ("seed", str(2**32)),
        ("scale", "2,1"),
        ("scale", "0,1"),
        ("scale", "1"),
        ("scale", "1,2,3"),
        ("scale", "nan,nan"),
        ("flip", "1.1"),
        ("rotate", "200"),
        ("jitter", "2"),
        ("warm_up", "1"),
        ("precision", "fp8"),
        ("net", "resnet"),
        ("loss", "hinge"),
        ("class_weights", "median"),
        ("image_size", "32x"),
        ("image_size", "32x32x32"),
        ("image_size", "5000"),
        ("multi_scale", "0.5,zero"),
        ("multi_scale", "0"),
        ("dropout", "1"),
        ("ema", "1"),
        ("net", "resnet-unet"),
        ("loss", ""),
        ("min_miou", "2"),
        ("min_miou", ""),
        ("epochs", "none"),
        ("tversky_alpha", "-0.1"),
        ("tversky_alpha", "nan"),
        ("tversky_beta", "0"),
        ("tversky_beta", "inf"),
    ],
)
def test_a_value_out_of_range_is_named(key: str, value: str) -> None:
    with pytest.raises(InputError) as caught:
        TINY.override({key: value})
    assert str(caught.value).startswith(f"{key}={value!r} does not fit recipe 'tiny': ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["1", "1,2,3", "", 1, [1], None])
def test_a_pair_that_is_none_says_what_it_wants(value: object) -> None:
    with pytest.raises(InputError, match="^scale=.* needs two numbers.*, like 0.5,2.$"):
        TINY.override({"scale": value})


def test_half_a_pair_is_named_with_the_whole() -> None:
    with pytest.raises(InputError, match="^scale='0.5,big' does not fit .*: must be a number"):
        TINY.override({"scale": "0.5,big"})


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TINY.epochs = 3  # type: ignore[misc]
    assert len({TINY, TINY.override({}), TINY.override({"seed": 1})}) == 2


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=str)
def test_round_trip_through_json(recipe: Recipe) -> None:
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_a_setting_of_another_version_is_refused() -> None:
    with pytest.raises(ValidationError, match="wide"):
        Recipe.model_validate(TINY.model_dump() | {"wide": 3})


@pytest.mark.parametrize("name", RECIPES)
def test_every_named_recipe_builds(name: str) -> None:
    assert named(name).name == name
    assert sum(p.numel() for p in build_net(named(name), 21).parameters()) > 1000


def test_an_unknown_recipe_suggests_the_known_one() -> None:
    with pytest.raises(InputError, match="Did you mean 'voc-segmentnet'?"):
        named("voc-segmentnt")
    with pytest.raises(InputError, match="no recipe 'xyzzy'. There are: .*tiny"):
        named("xyzzy")


def test_the_first_net_is_what_was_asked_for() -> None:
    recipe: dict[str, Any] = named("voc-segmentnet").model_dump()
    assert recipe["loss"] == "tversky + cross_entropy"
    assert (recipe["optimiser"], recipe["schedule"]) == ("adamw", "one-cycle")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_every_setting_can_be_typed_as_it_is_shown(recipe: Recipe) -> None:
    shown = {key: as_typed(value) for key, value in recipe if key not in ("name", "summary")}
    assert recipe.override(shown) == recipe


def test_class_weights_need_a_term_that_they_weigh() -> None:
    changes = {"class_weights": "log", "loss": "dice + lovasz"}
    with pytest.raises(InputError, match="cross_entropy, bce, focal only"):
        TINY.override(changes)
    assert TINY.override(changes | {"loss": "dice + 0.5*bce"}).class_weights == "log"


@pytest.mark.parametrize(
    ("settings", "photo", "seen"),
    [
        ({"fit": "crop"}, (500, 375), (500, 375)),
        ({"fit": "resize"}, (500, 375), (320, 480)),
        ({"fit": "pad"}, (300, 480), (300, 480)),
        ({"fit": "pad"}, (640, 480), (320, 240)),
        ({"fit": "pad"}, (1, 4800), (1, 480)),
    ],
)
def test_the_size_at_which_a_photo_is_seen(
    settings: dict[str, str], photo: tuple[int, int], seen: tuple[int, int]
) -> None:
    recipe = TINY.override(settings | {"image_size": "320x480"})
    assert recipe.seen_size(Size(*photo)) == seen
