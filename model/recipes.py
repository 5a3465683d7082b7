"""The named recipes, one place to read them all."""

from model.errors import InputError, suggestion
from model.recipe import Recipe, Size

_VOC = Recipe(
    name="voc-unet",
    summary="U-Net for PASCAL VOC's 21 classes, from random crops (one GPU)",
    net="unet",
    depth=3,
    loss="dice + bce",
    epochs=100,
    image_size=Size(224, 224),
    rotate=15.0,
)
# The original says nothing of a schedule and of augmentation; these are ours.
_PEOPLE = Recipe(
    name="people-unet11",
    summary="U-Net with a VGG11 encoder, person against background",
    net="vgg_unet",
    encoder="vgg11",
    loss="bce",
    optimiser="adam",
    lr=3e-4,
    weight_decay=0.0,
    schedule="polynomial",
    warm_up=0.02,
    clip=None,
    epochs=150,
    batch_size=8,
    image_size=Size(320, 320),
    fit="resize",
    scale=(0.8, 1.25),
)

_ALL = (
    Recipe(
        name="voc-segmentnet",
        summary="residual U-Net, fully convolutional, for PASCAL VOC's 21 classes (one GPU)",
    ),
    _VOC,
    _VOC.model_copy(
        update={
            "name": "voc-resnet-unet",
            "summary": "U-Net with a ResNet34 encoder, else as voc-unet; pretrained if you like",
            "net": "resnet_unet",
            "depth": None,
            "encoder": "resnet34",
        }
    ),
    _PEOPLE,
    _PEOPLE.model_copy(
        update={
            "name": "people-unet16",
            "summary": "U-Net with a VGG16 encoder, person against background",
            "encoder": "vgg16",
        }
    ),
    _PEOPLE.model_copy(
        update={
            "name": "people-resnet34-unet",
            "summary": "U-Net with a ResNet34 encoder, person against background",
            "net": "resnet_unet",
            "encoder": "resnet34",
        }
    ),
    Recipe(
        name="carvana-unet",
        summary="the original U-Net, 64 to 1024 channels, car against background",
        net="unet",
        loss="bce",
        optimiser="adam",
        lr=1e-4,
        weight_decay=0.0,
        schedule="cosine-restarts",
        warm_up=0.0,
        restart_epochs=10,
        clip=None,
        epochs=20,
        batch_size=16,
        image_size=Size(320, 480),
        fit="resize",
        scale=(1.0, 1.0),
        flip_vertical=0.1,
        rotate=35.0,
        jitter=0.0,
    ),
    Recipe(
        name="simple-fcn",
        summary="plain fully convolutional net with dropout, two classes or many, quick to train",
        net="simple_fcn",
        dropout=0.2,
        loss="cross_entropy",
        optimiser="adam",
        weight_decay=1e-4,
        image_size=Size(256, 256),
        normalise="per-image",
    ),
    Recipe(
        name="tiny",
        summary="the dry run: a narrow net on small images, half a minute on a laptop's CPU",
        width=12,
        depth=3,
        lr=8e-3,
        epochs=12,
        batch_size=8,
        image_size=Size(64, 64),
        scale=(0.8, 1.25),
        rotate=15.0,
        jitter=0.1,
        min_miou=0.6,
    ),
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}


def named(name: str) -> Recipe:
    """The recipe of that name; InputError lists what there is."""
    if name in RECIPES:
        return RECIPES[name]
    raise InputError(f"There is no recipe {name!r}. {suggestion(name, RECIPES)}")
