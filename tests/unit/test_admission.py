"""Who is let in."""

import pytest

from mesh_wire.admission import Admission
from mesh_wire.errors import Busy


def test_as_many_get_in_as_there_are_places() -> None:
    admission = Admission(2, reason="EXPERT_BUSY", retry_after_s=0.25)
    with admission.place(), admission.place():
        assert admission.taken == 2
        with pytest.raises(Busy) as full, admission.place():
            pass
        assert admission.taken == 2

    assert admission.taken == 0
    assert (full.value.reason, full.value.retry_after_s) == ("EXPERT_BUSY", 0.25)


def test_a_place_is_given_back_whatever_happens() -> None:
    admission = Admission(1, reason="EXPERT_BUSY")
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), admission.place():
            raise ZeroDivisionError

    assert admission.taken == 0
