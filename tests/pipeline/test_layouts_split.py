"""Who trains and who judges where no list says so: groups stay together, by name alone."""

import tempfile
from collections.abc import Callable
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devkit import devkit, extracted, jpeg
from folder_archives import black_and_white, carvana, two_folders
from infra.stores import Store
from model.errors import InputError
from pipeline.layouts.layout import Layout
from pipeline.stages.separate import Separation, separate, validation_groups

NAMES = st.text(st.sampled_from("ab01_- éß/+"), min_size=1, max_size=8).filter(
    lambda name: "//" not in name and not name.startswith("/") and not name.endswith("/")
)
GROUPS = st.sets(st.text(max_size=5), min_size=2, max_size=40)
SHARES = st.floats(0, 1, exclude_min=True, exclude_max=True)


def sides(separation: Separation) -> dict[str, set[str]]:
    """The splits of each group."""
    found: dict[str, set[str]] = {}
    for pair in separation.pairs:
        assert pair.group is not None
        found.setdefault(pair.group, set()).add(pair.split)
    return found


@pytest.fixture
def split(store: Store, spool: Path) -> Callable[..., Separation]:
    def split(*paths: Path, **layout: object) -> Separation:
        chosen = Layout.model_validate(layout)
        return separate(extracted(store, spool, *paths), store, spool, layout=chosen)[0]

    return split


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    cars=st.dictionaries(
        NAMES, st.sets(st.integers(0, 99), min_size=1, max_size=3), min_size=2, max_size=6
    ),
    share=SHARES,
)
def test_no_car_is_on_both_sides_whatever_the_names(
    cars: dict[str, set[int]], share: float
) -> None:
    views = {f"{car}_{view:02}": car for car, of_car in cars.items() for view in of_car}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store.open(str(folder / "store"))
        archives = extracted(store, folder / "spool", carvana(folder / "cars.tar", views))
        layout = Layout(kind="carvana", val_share=share)
        found, _ = separate(archives, store, folder / "spool", layout=layout)
    assert {pair.id: pair.group for pair in found.pairs} == views
    by_car = sides(found)
    assert by_car.keys() == cars.keys()
    assert all(len(splits) == 1 for splits in by_car.values())
    assert set().union(*by_car.values()) == {"train", "val"}


def of_its_own(group: str, share: float) -> bool:
    """Whether a group validates by its own name, whatever other groups there are."""
    return Fraction(int(sha256(group.encode()).hexdigest(), 16), 2**256) < Fraction(share)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(groups=GROUPS, share=SHARES, data=st.data())
def test_the_split_depends_on_names_and_share_alone(
    groups: set[str], share: float, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(sorted(groups)))
    judging = validation_groups(shuffled, share)
    assert judging == validation_groups([*groups, *shuffled], share)
    assert judging
    assert judging < groups
    more = validation_groups(groups, (share + 1) / 2) if share < 0.99 else groups
    assert judging <= more


@settings(max_examples=200, deadline=None, derandomize=True)
@given(groups=GROUPS, others=GROUPS, share=SHARES)
def test_groups_that_are_added_move_nobody(
    groups: set[str], others: set[str], share: float
) -> None:
    """Who judged a checkpoint of yesterday never trains one that is compared with it."""
    before = validation_groups(groups, share)
    moved = before ^ (validation_groups(groups | others, share) & groups)
    if len({of_its_own(group, share) for group in groups}) == 2:
        assert not moved
    else:  # one group was taken to the empty side, and may be relieved
        assert len(moved) <= 1


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_of_many_groups_the_share_validates(share: float) -> None:
    many = [f"car{number}" for number in range(4000)]
    judging = validation_groups(many, share)
    assert len(judging) / len(many) == pytest.approx(share, abs=0.03)
    assert judging == {group for group in many if of_its_own(group, share)}


def test_the_split_is_the_same_for_ever() -> None:
    """A run of today can be scored in years on what it has not seen."""
    cars = [f"car{number}" for number in range(10)]
    assert validation_groups(cars, 0.3) == {"car0", "car3", "car6", "car9"}


def test_neither_side_stays_empty(split: Callable[..., Separation], tmp_path: Path) -> None:
    """The lowest hash validates, or the highest trains."""
    names = [f"{number:02}" for number in range(20)]
    ordered = sorted(names, key=lambda name: sha256(name.encode()).hexdigest())
    path = two_folders(tmp_path / "data.tar", names)
    few, many = split(path, val_share=0.001), split(path, val_share=0.999)
    assert [pair.id for pair in few.pairs if pair.split == "val"] == ordered[:1]
    assert [pair.id for pair in many.pairs if pair.split == "train"] == ordered[-1:]


def test_photos_that_a_pattern_groups_stay_together(
    split: Callable[..., Separation], tmp_path: Path
) -> None:
    names = [f"{site}/day{day}-{n}" for site in "xy" for day in (1, 2) for n in range(4)]
    found = split(two_folders(tmp_path / "data.tar", names), group=r"(.+)-\d+", val_share=0.5)
    by_day = sides(found)
    assert by_day.keys() == {"x/day1", "x/day2", "y/day1", "y/day2"}
    assert sorted(map(sorted, by_day.values())) == [["train"]] * 2 + [["val"]] * 2
    by_site = sides(split(tmp_path / "data.tar", group="(.)/.*"))
    assert by_site.keys() == {"x", "y"}


def test_a_group_in_two_archives_is_on_one_side(
    split: Callable[..., Separation], tmp_path: Path
) -> None:
    """By itself each archive would let another of its cars judge."""
    cars = [f"car{number}" for number in range(8)]
    found = split(
        carvana(tmp_path / "1.tar", [f"{car}_01" for car in cars]),
        carvana(tmp_path / "2.tar", [f"{car}_02" for car in cars[2:]], root="more/"),
        val_share=0.4,
    )
    assert len(found.pairs) == 14
    assert all(len(splits) == 1 for splits in sides(found).values())


def test_the_same_photo_in_two_groups_only_judges(
    split: Callable[..., Separation], tmp_path: Path
) -> None:
    same = {f"images/{name}.jpg": jpeg("the same") for name in "abcde"}
    names = [*"abcde", *map(str, range(10))]
    found = split(two_folders(tmp_path / "data.tar", names, files=same), val_share=0.5)
    kept = [pair for pair in found.pairs if pair.id in "abcde"]
    assert [pair.split for pair in kept] == ["val"]
    assert found.withheld + found.duplicate == 4
    assert found.withheld >= 1


def test_different_photos_of_one_name_are_refused(
    split: Callable[..., Separation], tmp_path: Path
) -> None:
    """Nothing is left out without a word because two people number their photos alike."""
    mine = two_folders(tmp_path / "mine.tar")
    theirs = two_folders(tmp_path / "theirs.tar", "a", files={"images/a.jpg": jpeg("another")})
    with pytest.raises(InputError, match="Two different photos are called a: .*mine.*theirs.*Rena"):
        split(mine, theirs)
    apart = two_folders(
        tmp_path / "apart.tar",
        "a",
        photos="theirs/images",
        masks="theirs/masks",
        files={"theirs/images/a.jpg": jpeg("another")},
    )
    assert {pair.id for pair in split(mine, apart).pairs} == {*"abcde", "theirs/a"}


@pytest.mark.parametrize("turned", [False, True])
def test_a_photo_in_a_folder_that_is_called_as_another_of_a_devkit_is_refused(
    split: Callable[..., Separation], tmp_path: Path, turned: bool
) -> None:
    voc = devkit(tmp_path / "voc.tar")
    names = ("2012_one", "b", "c", "d")
    mine = two_folders(tmp_path / "mine.tar", names)
    with pytest.raises(InputError, match="Two different photos are called 2012_one: .*voc.tar: "):
        split(*((mine, voc) if turned else (voc, mine)))
    same = {"images/2012_one.jpg": jpeg("one")}
    found = split(voc, two_folders(tmp_path / "same.tar", names, files=same))
    assert found.withheld + found.duplicate == 1


def test_one_of_two_devkits_is_enough_to_be_another_photo(
    split: Callable[..., Separation], tmp_path: Path
) -> None:
    """Two files of one photo are two devkits' matter; a folder's has no such right."""
    voc = devkit(tmp_path / "voc.tar")
    anew = devkit(tmp_path / "anew.tar", photos={"one": jpeg("packed anew")})
    mine = two_folders(
        tmp_path / "m.tar", ("2012_one", "b"), files={"images/2012_one.jpg": jpeg("one")}
    )
    assert len(split(voc, anew).pairs) == 3
    with pytest.raises(InputError, match="called 2012_one: .*anew.tar.*m.tar: images"):
        split(voc, anew, mine)


def test_the_same_archive_packed_twice_counts_once(
    split: Callable[..., Separation], tmp_path: Path
) -> None:
    again = two_folders(tmp_path / "again.tar", files={"readme": b"packed anew"})
    found = split(two_folders(tmp_path / "data.tar"), again)
    assert len(found.pairs) == found.duplicate == 5


def test_one_group_cannot_be_split(split: Callable[..., Separation], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="are of one group, 'a', but.*--layout group="):
        split(two_folders(tmp_path / "one.tar", "a"))
    with pytest.raises(InputError, match="are of one group, 'car'"):
        split(carvana(tmp_path / "car.tar", ["car_01", "car_02"]))


def test_a_photo_that_the_group_does_not_fit_is_named(
    split: Callable[..., Separation], tmp_path: Path
) -> None:
    cars = carvana(tmp_path / "cars.tar", ["car_01", "lorry_02", "van"])
    with pytest.raises(InputError, match=r"cars.tar: the photo van does not fit the group '\(\.\+"):
        split(cars)
    with pytest.raises(InputError, match="the photo car_2b does not fit"):  # only its beginning
        split(carvana(tmp_path / "odd.tar", ["car_1", "lorry_2", "car_2b"]))
    path = two_folders(tmp_path / "data.tar")
    with pytest.raises(InputError, match="the photo [a-e] does not fit"):
        split(path, group="(a.*)b")
    with pytest.raises(InputError, match="the photo a does not fit"):  # it shares nothing
        split(path, group="(x?).*")


def test_a_pattern_that_never_ends_is_stopped(
    split: Callable[..., Separation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.layouts.folders._MATCH_SECONDS", 0.2)
    path = two_folders(tmp_path / "data.tar", ["a" * 60, "b"])
    with pytest.raises(InputError, match="takes longer than 0.2 s for the photos of .*data.tar"):
        split(path, group="((?:a+)+)c")


def test_another_layout_is_another_separation(
    split: Callable[..., Separation], tmp_path: Path
) -> None:
    path = two_folders(tmp_path / "data.tar")
    keys = [split(path, **layout).key for layout in ({}, {"val_share": 0.4}, {"group": "(.)"})]
    assert len(set(keys)) == 3
    assert split(path).key == keys[0]
    files = {"images/z.jpg": jpeg("z"), "masks/z.png": black_and_white()}
    assert split(two_folders(tmp_path / "more.tar", files=files)).key not in keys
