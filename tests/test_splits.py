"""Splits: stable when pictures are added, groups kept together, shares as asked."""

from collections import Counter
from pathlib import Path

import pytest

from thingstuff.convert.source import SourcePicture
from thingstuff.convert.splits import SplitRules, parse_shares
from thingstuff.errors import InputError


def picture(key: str, split: str | None = None) -> SourcePicture:
    return SourcePicture(key, Path(f"{key}.jpg"), split=split)


def test_the_source_s_own_splits_are_kept() -> None:
    rules = SplitRules()
    assert rules.split_of(picture("a", "val")) == "val"
    assert rules.split_of(picture("a")) == "train"
    with pytest.raises(InputError, match="cannot name a folder"):
        rules.split_of(picture("a", "../up"))


def test_shares_are_met_and_a_picture_s_split_hangs_on_it_alone() -> None:
    rules = SplitRules((0.7, 0.2))
    counts = Counter(rules.split_of(picture(f"p{n}")) for n in range(4000))
    assert abs(counts["train"] / 4000 - 0.7) < 0.03
    assert abs(counts["val"] / 4000 - 0.2) < 0.03
    assert counts["train"] + counts["val"] + counts["test"] == 4000
    # recorded: a picture must not move with another version of the program
    assert [SplitRules((0.5,)).split_of(picture(f"p{n}")) for n in range(6)] == RECORDED


RECORDED = ["train", "val", "val", "val", "val", "val"]


def test_another_seed_splits_otherwise() -> None:
    one, other = ([SplitRules((0.5,), seed=seed).split_of(picture(f"p{n}")) for n in range(64)] for seed in (0, 1))
    assert one != other


def test_groups_stay_together() -> None:
    rules = SplitRules((0.5,), group=r"^(seq\d+)_")
    splits = {s: {rules.split_of(picture(f"seq{s}_{n}")) for n in range(20)} for s in range(30)}
    assert all(len(found) == 1 for found in splits.values())
    assert {name for found in splits.values() for name in found} == {"train", "val"}


def test_a_pattern_without_brackets_groups_by_all_it_matches() -> None:
    rules = SplitRules((0.5,), group=r"seq\d+")
    assert len({rules.split_of(picture(f"a/seq7/{n}")) for n in range(20)}) == 1


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: SplitRules((1.0,)), "--split 1"),
        (lambda: SplitRules((0.0,)), "--split 0"),
        (lambda: SplitRules((0.8, 0.3)), "--split 0.8,0.3"),
        (lambda: SplitRules((0.2, 0.2, 0.2)), "--split"),
        (lambda: SplitRules(group="a"), "give --split too"),
        (lambda: SplitRules((0.5,), group="("), "no regular expression"),
        (lambda: SplitRules((0.5,), group="x").split_of(picture("a")), "is not found in 'a'"),
        (lambda: parse_shares("most"), "--split 'most'"),
    ],
)
def test_what_makes_no_sense_is_told(make: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        make()  # type: ignore[operator]


def test_shares_are_read() -> None:
    assert parse_shares("0.8") == (0.8,)
    assert parse_shares("0.7,0.2") == (0.7, 0.2)
