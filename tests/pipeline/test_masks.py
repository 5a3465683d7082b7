"""Photos and masks of archives: every way to write them gives the same pixels."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from devkit import HEIGHT, WIDTH, Pixels, encoded, jpeg, mask_of, palette_png, raw_png
from model.errors import InputError
from model.images import decode_photo
from model.palette import colourise, voc_palette
from pipeline.masks import fit, read_mask, read_photo

MANY = 64e6


def pixels(data: bytes) -> Pixels:
    """What Pillow sees, uint8 [H, W, 3], EXIF aside."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def grey_4_bits(mask: Pixels) -> bytes:
    padded = np.pad(mask, ((0, 0), (0, mask.shape[1] % 2)))
    rows = padded[:, ::2] << 4 | padded[:, 1::2]
    return raw_png(*mask.shape, 4, b"".join(b"\0" + row.tobytes() for row in rows))


def rgba(mask: Pixels) -> Image.Image:
    return Image.fromarray(np.dstack([colourise(mask), np.full_like(mask, 7)]))


def opened(mask: Pixels) -> Image.Image:
    return Image.open(io.BytesIO(palette_png(mask)))


WRITERS: dict[str, Callable[[Pixels], bytes]] = {
    "palette": palette_png,
    "palette, 4 bits": lambda mask: encoded(opened(mask), "PNG", bits=4),
    "grey": lambda mask: encoded(Image.fromarray(mask), "PNG"),
    "grey, 4 bits": grey_4_bits,
    "RGB": lambda mask: encoded(Image.fromarray(colourise(mask)), "PNG"),
    "RGBA": lambda mask: encoded(rgba(mask), "PNG"),
    "GIF": lambda mask: encoded(opened(mask), "GIF", optimize=False),
    "BMP": lambda mask: encoded(opened(mask), "BMP"),
}


@pytest.mark.parametrize("writer", WRITERS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_masks_are_what_a_loop_over_their_pixels_reads(writer: str, data: st.DataObject) -> None:
    indices = st.integers(0, 15) if "4 bits" in writer else st.sampled_from([*range(21), 255])
    shapes = array_shapes(min_dims=2, max_dims=2, max_side=9)
    drawn = data.draw(arrays(np.uint8, shapes, elements=indices))
    packed = WRITERS[writer](drawn)
    colours, painted = voc_palette().tolist(), colourise(drawn).tolist()
    looped = [[colours.index(colour) for colour in row] for row in painted]
    read = read_mask(packed, 21, "a mask", MANY)
    assert read.dtype == np.uint8
    assert read.tolist() == looped == drawn.tolist()


def test_one_bit_masks_hold_the_indices_0_and_1() -> None:
    drawn = mask_of("bits") % 2
    packed = encoded(Image.fromarray(drawn * 255).convert("1"), "PNG")
    assert read_mask(packed, 2, "a mask", MANY).tolist() == drawn.tolist()


MAPPED = {
    "palette": palette_png,
    "grey": lambda mask: encoded(Image.fromarray(mask), "PNG"),
    "grey, 4 bits": grey_4_bits,
    "RGB": lambda mask: encoded(Image.fromarray(mask).convert("RGB"), "PNG"),
    "RGBA": lambda mask: encoded(Image.fromarray(mask).convert("RGBA"), "PNG"),
    "GIF": WRITERS["GIF"],
    "BMP": WRITERS["BMP"],
}


@pytest.mark.parametrize("writer", MAPPED)
@pytest.mark.parametrize("values", [(0, 9), (9, 0), (15, 3, 0), (1, 0, 2, 7)])
def test_each_class_has_the_value_that_is_said(writer: str, values: tuple[int, ...]) -> None:
    classes = mask_of("values") % len(values)
    held = np.array(values, np.uint8)[classes]
    packed = MAPPED[writer](held)
    read = read_mask(packed, len(values), "a mask", MANY, values)
    assert read.dtype == np.uint8
    assert read.tolist() == classes.tolist()


@pytest.mark.parametrize("writer", sorted(MAPPED.keys() - {"grey, 4 bits"}))
def test_255_is_void_unless_a_class_has_it(writer: str) -> None:
    black_and_white = MAPPED[writer](np.array([[0, 255, 0]], np.uint8))
    assert read_mask(black_and_white, 2, "m", MANY, (0, 255)).tolist() == [[0, 1, 0]]
    assert read_mask(black_and_white, 2, "m", MANY, (255, 0)).tolist() == [[1, 0, 1]]
    assert read_mask(black_and_white, 2, "m", MANY, (0, 128)).tolist() == [[0, 255, 0]]


def test_one_bit_masks_have_the_values_0_and_1() -> None:
    packed = encoded(Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"), "PNG")
    assert read_mask(packed, 2, "m", MANY, (1, 0)).tolist() == [[1, 0]]
    with pytest.raises(InputError, match="the value 1 at row 0, column 1"):
        read_mask(packed, 2, "m", MANY, (0, 255))


@pytest.mark.parametrize("value", [1, 127, 254])
def test_a_value_of_no_class_is_named_with_its_place(value: int) -> None:
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    drawn[3, 4] = value
    with pytest.raises(
        InputError, match=f"m.png has the value {value} at row 3, column 4.*mask_values=0,255,…"
    ):
        read_mask(palette_png(drawn), 2, "m.png", MANY, (0, 255))


def test_a_colour_is_no_value() -> None:
    painted = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    painted[2, 5] = (255, 255, 254)
    with pytest.raises(
        InputError, match=r"\(255, 255, 254\) at row 2, column 5, .* no shade of gr"
    ):
        read_mask(encoded(Image.fromarray(painted), "PNG"), 2, "m.png", MANY, (0, 255))


@pytest.mark.parametrize("index", [5, 20, 253, 254])
def test_an_index_outside_the_classes_is_named(index: int) -> None:
    drawn = mask_of()
    drawn[3, 4] = index
    with pytest.raises(InputError, match=f"m.png has the class index {index}, .* only 5 "):
        read_mask(palette_png(drawn), 5, "m.png", MANY)
    with pytest.raises(InputError, match="m.png has the c"):
        read_mask(encoded(Image.fromarray(colourise(drawn)), "PNG"), 5, "m.png", MANY)


def test_as_many_classes_as_there_can_be() -> None:
    drawn = np.array([[253, 0, 255]], np.uint8)
    assert read_mask(palette_png(drawn), 254, "m.png", MANY).tolist() == drawn.tolist()


def test_a_colour_of_no_class_is_named_with_its_place() -> None:
    painted = colourise(mask_of())
    painted[2, 5] = (1, 2, 3)
    with pytest.raises(InputError, match=r"m.png has the colour \(1, 2, 3\) at row 2, column 5"):
        read_mask(encoded(Image.fromarray(painted), "PNG"), 21, "m.png", MANY)


def test_16_bit_masks_are_refused_with_the_cure() -> None:
    deep = encoded(Image.fromarray(mask_of().astype(np.uint16) * 257), "PNG")
    with pytest.raises(InputError, match="m.png is a I;16 image; give masks as palette"):
        read_mask(deep, 21, "m.png", MANY)


def test_ordinary_photos_stay_the_bytes_they_are() -> None:
    for mode in ("RGB", "L"):
        data = jpeg("a photo", mode=mode)
        assert read_photo(data, (HEIGHT, WIDTH), "a.jpg", MANY) == data
        assert decode_photo(data, "a.jpg").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_photos_in_other_colours_become_rgb(mode: str) -> None:
    data = jpeg("a photo", mode=mode, quality=95)
    returned = decode_photo(read_photo(data, (HEIGHT, WIDTH), "a.jpg", MANY), "a.jpg")
    off = np.abs(returned.astype(int) - pixels(data)).max()
    assert off <= (0 if mode == "CMYK" else 2)  # another JPEG decoder may round otherwise


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1"])
def test_png_photos_lose_nothing(mode: str) -> None:
    noise = Image.open(io.BytesIO(jpeg("a photo"))).convert(mode)
    data = encoded(noise, "PNG")
    returned = decode_photo(read_photo(data, (HEIGHT, WIDTH), "a.png", MANY), "a.png")
    assert returned.tolist() == pixels(data).tolist()


# Where the first row and column of the stored picture are when it is upright, by Exif's table.
TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda photo: photo[:, ::-1],
    3: lambda photo: photo[::-1, ::-1],
    4: lambda photo: photo[::-1],
    5: lambda photo: photo.swapaxes(0, 1),
    6: lambda photo: np.rot90(photo, -1),
    7: lambda photo: photo[::-1, ::-1].swapaxes(0, 1),
    8: lambda photo: np.rot90(photo, 1),
}


def turned_jpeg(orientation: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg("a photo", exif=exif)


@pytest.mark.parametrize("orientation", TURNS)
def test_a_turned_photo_is_brought_upright_for_its_mask(orientation: int) -> None:
    data = turned_jpeg(orientation)
    upright = TURNS[orientation](pixels(data))
    returned = decode_photo(read_photo(data, upright.shape[:2], "a.jpg", MANY), "a.jpg")
    assert returned.tolist() == upright.tolist()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_turned_photo_stays_when_its_mask_was_drawn_unturned(orientation: int) -> None:
    data = turned_jpeg(orientation)
    returned = decode_photo(read_photo(data, (HEIGHT, WIDTH), "a.jpg", MANY), "a.jpg")
    assert np.abs(returned.astype(int) - pixels(data)).max() <= 2


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_orientations_that_say_nothing(orientation: int) -> None:
    data = turned_jpeg(orientation)
    assert read_photo(data, (HEIGHT, WIDTH), "a.jpg", MANY) == data


def test_exif_that_is_nonsense_is_ignored() -> None:
    good = turned_jpeg(6)
    for was, becomes in (
        (b"\x01\x12\x00\x03", b"\x01\x12\x00\x07"),  # the orientation as bytes of no meaning
        (b"Exif\0\0MM", b"Exif\0\0??"),
    ):
        assert was in good
        data = good.replace(was, becomes)
        assert read_photo(data, (HEIGHT, WIDTH), "a.jpg", MANY) == data


@pytest.mark.parametrize("orientation", [1, 6])
def test_16_bit_grey_photos_keep_their_upper_half(orientation: int) -> None:
    ramp = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(ramp), "PNG", exif=exif)
    upright = np.rot90(ramp, -1) if orientation == 6 else ramp
    returned = decode_photo(read_photo(data, upright.shape, "a.png", MANY), "a.png")
    assert returned.tolist() == np.dstack([upright >> 8] * 3).tolist()


def test_a_photo_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="a.jpg is 16x12 pixels, but its mask is 12x16"):
        read_photo(jpeg(), (WIDTH, HEIGHT), "a.jpg", MANY)


def test_the_message_has_the_size_as_people_see_it() -> None:
    with pytest.raises(InputError, match="a.jpg is 12x16 pixels, but its mask is 10x10"):
        read_photo(turned_jpeg(6), (10, 10), "a.jpg", MANY)


def test_more_pixels_than_the_limit_are_refused() -> None:
    size = HEIGHT * WIDTH
    assert read_photo(jpeg(), (HEIGHT, WIDTH), "a.jpg", size)
    with pytest.raises(InputError, match="a.jpg says it has 16x12 pixels.*--limit photo_mega"):
        read_photo(jpeg(), (HEIGHT, WIDTH), "a.jpg", size - 1)
    with pytest.raises(InputError, match="m.png says it has 16x12 pixels"):
        read_mask(palette_png(mask_of()), 21, "m.png", size - 1)


def test_shrinking_averages_the_photo_and_keeps_the_classes() -> None:
    photo = np.zeros((40, 20, 3), np.uint8)
    photo[::2] = 200
    mask = np.full((40, 20), 3, np.uint8)
    mask[:, 10:] = 255
    packed, labels = fit(photo, mask, 10)
    small = decode_photo(packed, "small")
    assert small.shape == (10, 5, 3)
    assert labels.shape == (10, 5)
    assert np.abs(small.astype(int) - 100).max() <= 2
    assert set(np.unique(labels)) == {3, 255}


def test_shrinking_leaves_at_least_a_pixel() -> None:
    _, labels = fit(np.zeros((1, 1000, 3), np.uint8), np.zeros((1, 1000), np.uint8), 8)
    assert labels.shape == (1, 8)


BYTES = {
    "jpeg": turned_jpeg(6),
    "progressive": jpeg("a photo", progressive=True),
    "palette": palette_png(mask_of()),
    "gif": WRITERS["GIF"](mask_of()),
    "bmp": WRITERS["BMP"](mask_of()),
}


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what we refuse
@pytest.mark.parametrize("kind", BYTES)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_damage_is_noticed_or_harmless(kind: str, data: st.DataObject) -> None:
    """Whatever bytes come: pixels of the right shape, or a sentence that names the file."""
    damaged = bytearray(BYTES[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        place = st.integers(0, len(damaged) - 1)
        damaged[data.draw(place)] = data.draw(st.integers(0, 255))
    cut = damaged[: data.draw(st.sampled_from([len(damaged), len(damaged) // 2]))]
    for read in (
        lambda: decode_photo(read_photo(bytes(cut), (HEIGHT, WIDTH), "this", 1e5), "this"),
        lambda: read_mask(bytes(cut), 5, "this", 1e5),
        lambda: read_mask(bytes(cut), 5, "this", 1e5, (0, 1, 2, 3, 4)),
    ):
        try:
            found = read().ndim in (2, 3)
        except InputError as error:
            found = "this" in str(error)
        assert found
