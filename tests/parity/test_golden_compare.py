"""The comparison itself: it must not let a wrong, missing, extra or unknown number pass."""

import pytest
import torch
from golden_compare import Rules, differences, exactly, flat, of_largest, pixels, within

RULES = Rules(compared=((r"level\.\d\.score", within(1e-3)), (r"ids", pixels(2))), not_results=("image",))
RECORDED = {"level.0.score": torch.tensor([0.5, 0.25]), "ids": torch.zeros(4, 4), "image": torch.ones(3)}
SAME = {"level.0.score": torch.tensor([0.5, 0.25]), "ids": torch.zeros(4, 4)}


def test_equal_numbers_pass() -> None:
    assert differences(RECORDED, SAME, RULES) == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"level.0.score": torch.tensor([0.5, 0.26])}, "error 10 x allowed"),
        ({"level.0.score": torch.tensor([0.5, float("nan")])}, "error inf"),
        ({"level.0.score": torch.tensor([0.5])}, "error inf"),
        ({"ids": torch.tensor([[1.0, 1, 1, 0]] + [[0.0] * 4] * 3)}, "error 1.5 x allowed"),
        ({"level.1.score": torch.tensor([0.5])}, "nothing recorded"),
    ],
    ids=["value", "nan", "shape", "pixels", "extra"],
)
def test_a_wrong_number_of_ours_is_found(changes: dict[str, torch.Tensor], complaint: str) -> None:
    (found,) = differences(RECORDED, {**SAME, **changes}, RULES)
    assert complaint in found


def test_a_recorded_key_that_nothing_compares_is_found() -> None:
    (found,) = differences({**RECORDED, "new_map": torch.zeros(1)}, SAME, RULES)
    assert found.startswith("new_map: recorded, but compared with nothing")
    (found,) = differences({**RECORDED, "new_map": torch.zeros(1)}, {**SAME, "new_map": torch.zeros(1)}, RULES)
    assert found.startswith("new_map: no rule")


def test_an_empty_tensor_of_ours_may_be_absent_from_a_recording() -> None:
    assert differences(RECORDED, {**SAME, "level.1.score": torch.zeros(0)}, RULES) == []


def test_comparers_know_size_and_kind() -> None:
    assert of_largest(1e-2)(torch.tensor([100.5, 0.9]), torch.tensor([100.0, 0.0])) == pytest.approx(0.9, rel=1e-3)
    assert of_largest(1e-2)(0.0, 0.0) == 0
    assert of_largest(1e-2)(1e-3, 0.0) > 1
    assert exactly(True, 1) > 1
    assert exactly(torch.tensor([1.0]), torch.tensor([1])) == 0
    assert exactly([], []) == 0


def test_flat_keeps_empty_lists() -> None:
    assert flat({"a": {"b": [1, {"c": []}]}, "d": []}) == {"a/b/0": 1, "a/b/1/c": [], "d": []}
