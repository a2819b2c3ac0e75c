"""Relations whose elements are repeated: lists may name any of those that are equal."""

from __future__ import annotations

import numpy as np

from onnxprune.certify.relations.element_bounds import unbounded
from onnxprune.certify.relations.relation import Relation, taken


def repeated() -> Relation:
    """Two elements, each of them twice; the dense tensor holds the second and the third."""
    return Relation(1, unbounded(1), {0: np.array([1, 2])}, alike={0: np.array([0, 0, 1, 1])})


def test_equal_elements_are_named_by_any_of_them() -> None:
    assert repeated().same_elements(0, np.array([0, 3]))
    assert not repeated().same_elements(0, np.array([0, 1]))


def test_elements_that_are_taken_stay_equal_to_those_they_were_equal_to() -> None:
    """The last three of four are left: the first of these is alone, the others are equal."""
    given = taken(repeated(), 0, [1, 2, 3], [0, 1])
    assert given.same_elements(0, np.array([0, 2]))
    assert not given.same_elements(0, np.array([1, 1]))


def test_results_of_other_operators_need_not_repeat_elements() -> None:
    """A normalisation with a scale for each element makes others of equal ones."""
    assert not repeated().holding(unbounded(1)).same_elements(0, np.array([0, 3]))
