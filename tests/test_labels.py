from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from medseg.errors import ConfigError
from medseg.labels import Label, LabelSet

ORGANS = LabelSet.from_names({0: "background", 7: "spleen", 3: "liver"})


def test_labels_are_in_order_of_index_and_background_is_left_out():
    assert ORGANS.indices == (3, 7)
    assert ORGANS.names == {3: "liver", 7: "spleen"}
    assert ORGANS.num_classes == 3


@pytest.mark.parametrize(("highest", "dtype"), [(255, np.uint8), (256, np.uint16), (70000, np.uint32)])
def test_dtype_is_the_smallest_that_holds_every_index(highest, dtype):
    assert LabelSet.from_names({highest: "a"}).dtype == dtype


def test_subset_keeps_the_indices():
    assert ORGANS.subset(["spleen"]).indices == (7,)


def test_unknown_name_in_a_subset_lists_the_names():
    with pytest.raises(ConfigError, match="'heart'; there are: liver, spleen"):
        ORGANS.subset(["heart"])


@pytest.mark.parametrize("twice", [({1: "a", 2: "a"}), None])
def test_index_or_name_that_occurs_twice_is_refused(twice):
    labels = (Label(index=1, name="a"), Label(index=1, name="b")) if twice is None else None
    with pytest.raises(ValidationError, match="more than once"):
        LabelSet.from_names(twice) if twice else LabelSet(labels=labels)


def test_neighbouring_labels_have_colours_that_differ():
    colours = [Label(index=i, name=str(i)).rgb for i in range(1, 12)]
    apart = [np.abs(np.subtract(a, b)).max() for a, b in pairwise(colours)]
    assert min(apart) > 60


def test_own_colour_wins():
    assert Label(index=1, name="a", colour=(1, 2, 3)).rgb == (1, 2, 3)


def test_label_sets_survive_json():
    assert LabelSet.model_validate_json(ORGANS.model_dump_json()) == ORGANS
