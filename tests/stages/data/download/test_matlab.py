"""MATLAB files, as SciPy writes them: each array is read as it is, and no damaged bytes end in more than an error."""

from __future__ import annotations

import io
import random
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.io import savemat
from scipy.sparse import csc_array

from split_matching.errors import DataError
from split_matching.stages.data.download import matlab
from split_matching.stages.data.download.matlab import read_matlab
from tests.error_lines import check_error
from tests.faults.mutations import mutate, mutate_inside

MASK = np.arange(15, dtype=np.uint8).reshape(3, 5)
BOUNDARIES = np.array([[csc_array(MASK > 3)], [csc_array(MASK > 9)]], object)
STRUCT = {"Boundaries": BOUNDARIES, "Segmentation": MASK, "CategoriesPresent": np.array([1, 2, 3], np.uint8)}


def mat(compressed: bool = True, **variables: Any) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, variables, do_compression=compressed)
    return buffer.getvalue()


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_every_type_of_number(kind: str, compressed: bool) -> None:
    first = np.array([[-1.5, 2**20], [3, 4], [5, 300]]).clip(
        0 if kind[0] == "u" else None, 100 if kind[1] == "1" else None
    )
    for values in (first.astype(kind), MASK[:1, :1].astype(kind), np.zeros((2, 0), kind), np.ones((2, 3, 4), kind)):
        found = read_matlab(mat(compressed, before=np.eye(2), wanted=values), "a.mat", "wanted")
        np.testing.assert_array_equal(found, values)
        assert found.dtype == values.dtype


def test_numbers_that_are_stored_as_a_smaller_type() -> None:
    """MATLAB stores whole doubles as bytes: 1 in the tag of the numbers is then 2 (miUINT8), the class stays double."""
    whole = bytearray(mat(False, x=np.array([[7.0]])))
    assert whole[-16:-8] == (9).to_bytes(4, "little") + (8).to_bytes(4, "little")
    whole[-16:] = (2).to_bytes(4, "little") + (1).to_bytes(4, "little") + bytes([7, 0, 0, 0, 0, 0, 0, 0])
    assert read_matlab(bytes(whole), "a.mat", "x").tolist() == [[7]]


@pytest.mark.parametrize("compressed", [True, False])
def test_a_field_of_a_struct(compressed: bool) -> None:
    found = read_matlab(mat(compressed, GTcls=STRUCT), "a.mat", "GTcls", "Segmentation")
    np.testing.assert_array_equal(found, MASK)
    assert found.dtype == np.uint8


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "not a MATLAB file of version 5"),
        (b"x" * 500, "not a MATLAB file of version 5"),
        (mat(x=MASK), "no variable GTcls"),
        (mat(GTcls=MASK), "no struct of one element"),
        (mat(GTcls={"Other": MASK}), "no field Segmentation"),
        (mat(GTcls=np.array([(1,), (2,)], [("Segmentation", "u1")])), "no struct of one element"),
        (mat(GTcls={"Segmentation": "text"}), "no array of real numbers"),
        (mat(GTcls={"Segmentation": MASK * 1j}), "no array of real numbers"),
        (mat(GTcls={"Segmentation": BOUNDARIES}), "no array of real numbers"),
        (mat(GTcls={"Segmentation": BOUNDARIES[0, 0]}), "no array of real numbers"),
        (mat(GTcls=STRUCT)[:-1], "longer than what holds it"),
        (mat(False, GTcls=STRUCT)[:-9], "longer than what holds it"),
    ],
)
def test_other_files_are_named(data: bytes, word: str) -> None:
    read = "a.mat: cannot be read (", "); expected a MATLAB file with GTcls.Segmentation"
    check_error(lambda: read_matlab(data, "a.mat", "GTcls", "Segmentation"), *read, word)


def test_numbers_and_size_must_agree() -> None:
    data = mat(False, x=MASK)
    for shape in ((3, 4), (3, 6), (-3, -5), (2**31 - 1, 2**31 - 1), (2**16, 2**16)):
        changed = data.replace(np.array([3, 5], "<i4").tobytes(), np.array(shape, "<i4").tobytes())
        assert changed != data
        check_error(lambda: read_matlab(changed, "a.mat", "x"), "15 bytes of numbers in an array of")  # noqa: B023


def test_a_variable_that_unpacks_to_gigabytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = zlib.compress(bytes(2000))
    data = mat(x=MASK)[:132] + len(variable).to_bytes(4, "little") + variable
    monkeypatch.setattr(matlab, "MOST_BYTES", 1000)
    check_error(lambda: read_matlab(data, "a.mat", "x"), "more than 1,000 bytes")


SOUND = [mat(c, **content) for c in (True, False) for content in ({"GTcls": STRUCT}, {"LabelMap": MASK})]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SOUND), st.booleans(), st.integers(0, 2**32))
def test_damaged_bytes_are_an_array_or_an_error(data: bytes, inside: bool, seed: int) -> None:
    change = mutate_inside if inside and data[128] == matlab.COMPRESSED else mutate
    changed = change(data, random.Random(seed))
    found: NDArray[Any] | None
    for names in (("GTcls", "Segmentation"), ("LabelMap",)):
        try:
            found = read_matlab(changed, "a.mat", *names)
        except DataError as error:
            assert str(error).startswith("a.mat: cannot be read (") and str(error).isprintable()
        else:
            assert found.nbytes <= len(MASK.tobytes()) + 1024  # no more than the bytes that are there
