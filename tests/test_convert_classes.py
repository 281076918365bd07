"""Class rules: things and stuff, merged and dropped, ids kept, and what is said of wrong ones."""

from pathlib import Path

import pytest

from thingstuff.convert.classes import ClassRules, joined_rules, plan_classes, read_rules, used_only
from thingstuff.convert.source import SourceClass
from thingstuff.errors import InputError
from thingstuff.panoptic import Categories

CLASSES = (
    SourceClass("car", 26, True, (1, 2, 3)),
    SourceClass("road", 7, False),
    SourceClass("grass", 22, False),
    SourceClass("dog"),
)


def ids_of(categories: Categories) -> dict[str, int]:
    return dict(zip(categories.names, categories.ids, strict=True))


def test_ids_colours_and_kinds_are_kept() -> None:
    plan = plan_classes(CLASSES, ClassRules())
    assert ids_of(plan.categories) == {"dog": 1, "road": 7, "grass": 22, "car": 26}
    assert dict(zip(plan.categories.names, plan.categories.things, strict=True)) == {
        "dog": True, "road": False, "grass": False, "car": True,
    }  # fmt: skip
    assert plan.categories.colors[plan.categories.names.index("car")] == (1, 2, 3)
    assert plan.names == {c.name: c.name for c in CLASSES}


def test_things_and_stuff_are_as_the_person_says() -> None:
    plan = plan_classes(CLASSES, ClassRules(things=("grass",), stuff=("dog", "car")))
    kinds = dict(zip(plan.categories.names, plan.categories.things, strict=True))
    assert kinds == {"dog": False, "road": False, "grass": True, "car": False}


def test_a_merged_class_has_the_first_id_and_dropped_ones_are_gone() -> None:
    plan = plan_classes(
        CLASSES, ClassRules(merge={"ground": ("dog", "road", "grass")}, drop=("car",), stuff=("ground",))
    )
    assert ids_of(plan.categories) == {"ground": 7}
    assert plan.names == {"dog": "ground", "road": "ground", "grass": "ground"}


def test_classes_may_be_merged_into_one_that_is_there() -> None:
    plan = plan_classes(CLASSES, ClassRules(merge={"road": ("grass",)}))
    assert ids_of(plan.categories) == {"dog": 1, "road": 7, "car": 26}
    assert plan.names["grass"] == plan.names["road"] == "road"


def test_new_ids_do_not_hang_on_the_order_and_earlier_ones_stay() -> None:
    some = (SourceClass("b"), SourceClass("a"))
    assert ids_of(plan_classes(some, ClassRules()).categories) == {"a": 1, "b": 2}
    more = (SourceClass("aa"), *some)
    assert ids_of(plan_classes(more, ClassRules(), earlier={"a": 1, "b": 2}).categories) == {"a": 1, "b": 2, "aa": 3}


def test_background_and_filled_classes_are_added() -> None:
    filled = (SourceClass("sky", 187, False), SourceClass("road", 149, False), SourceClass("tree", 26, False))
    plan = plan_classes(CLASSES, ClassRules(background="rest"), filled)
    ids = ids_of(plan.categories)
    assert ids["sky"] == 187
    assert ids["road"] == 7, "the person's own id, not the model's"
    assert ids["tree"] not in (26, 7, 22), "26 is taken by the person's car"
    assert not plan.categories.things[plan.categories.names.index("rest")]


def test_wanted_ids() -> None:
    plan = plan_classes(CLASSES, ClassRules(ids={"dog": 5}))
    assert ids_of(plan.categories)["dog"] == 5
    with pytest.raises(InputError, match="both have the id 7"):
        plan_classes(CLASSES, ClassRules(ids={"dog": 7}))


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (ClassRules(things=("cra",)), "--things: there is no class 'cra'; did you mean 'car'"),
        (ClassRules(stuff=("sea",)), "--stuff: there is no class 'sea'; there are car, dog, grass, road"),
        (ClassRules(drop=("roads",)), "--drop: .* did you mean 'road'"),
        (ClassRules(merge={"x": ("nothing",)}), "--merge: there is no class 'nothing'"),
        (ClassRules(merge={"x": ("car",), "y": ("car",)}), "'car' is to become two classes"),
        (ClassRules(merge={"x": ("car",)}, drop=("car",)), "'car' is both merged and dropped"),
        (ClassRules(things=("car",), stuff=("car",)), "'car' is named as thing and as stuff"),
        (ClassRules(things=("car",), drop=("car",)), "--things: 'car' is dropped or merged away"),
        (ClassRules(background="car"), "'car' is a class of things already; say that it is stuff"),
        (ClassRules(background="dog"), "'dog' is a class of things already"),
        (ClassRules(background="b", things=("b",)), "the background 'b' cannot be a thing"),
        (ClassRules(drop=("car", "road", "grass", "dog")), "no class is left"),
        (ClassRules(ids={"x": 3}), "ids: there is no class 'x'"),
    ],
)
def test_wrong_rules_are_told(rules: ClassRules, told: str) -> None:
    with pytest.raises(InputError, match=told):
        plan_classes(CLASSES, rules)


def test_a_source_with_two_classes_of_a_name_is_told() -> None:
    with pytest.raises(InputError, match="more than one class named 'a'"):
        plan_classes((SourceClass("a", 1), SourceClass("a", 2)), ClassRules())


def test_rules_from_a_file_and_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("things: [car, dog]\nstuff: [road]\nmerge: {green: [grass]}\nids: {dog: 3}\nbackground: rest\n")
    rules = joined_rules(read_rules(path), ClassRules(stuff=("dog",), drop=("car",)))
    assert rules.things == ("car",)
    assert rules.stuff == ("road", "dog")
    assert rules.merge == {"green": ("grass",)}
    assert (rules.ids, rules.background, rules.drop) == ({"dog": 3}, "rest", ("car",))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("thing: [car]", "thing: .*the fields are things, stuff, merge"),
        ("things: car", "things: give a list of names"),
        ("things: [1]", "things.0"),
        ("merge: {a: b}", "merge.a"),
        ("ids: {a: -1}", "ids.a"),
        ("- a", "holds no classes"),
        ("a: [", "is no YAML"),
    ],
)
def test_wrong_files_are_told(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=told) as error:
        read_rules(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        read_rules(tmp_path / "no.yaml")


def test_classes_that_filling_did_not_bring_are_left_out() -> None:
    categories = plan_classes(CLASSES, ClassRules(), (SourceClass("sky", 187, False),)).categories
    assert "sky" not in used_only(categories, {"car"}, {"sky"}).names
    assert {*used_only(categories, {"sky"}, {"sky"}).names} == {*categories.names}


def test_the_id_of_a_class_that_is_gone_is_not_given_away() -> None:
    earlier = {"x": 1, "y": 2}
    plan = plan_classes((SourceClass("y"), SourceClass("a")), ClassRules(), earlier=earlier)
    assert ids_of(plan.categories) == {"y": 2, "a": 3}
