"""The layout of a shard: one HDF5 file with the arrays of many images, written once.

Schema 1, for N images whose ids ascend strictly:

    attributes of /         schema (1), kind ("features", ...), and what the stage adds (numbers and strings)
    /ids           (N,)     UTF-8 strings of fixed length
    /digests       (N, 32)  uint8: sha256 over the image's arrays, field by field in name order
    /<field>       group with the attribute lead (L)
      data         (total, *trail)  all images one after the other, leading axes flattened
      offsets      (N + 1,)  int64: image i has the rows offsets[i] : offsets[i + 1]
      shape        (N, L)    int64: its leading axes, with prod(shape[i]) rows; absent when L is 0

With plain h5py, the 2-d field `dense` of image i (each image has its own height and width) is
`f["dense/data"][f["dense/offsets"][i]:f["dense/offsets"][i + 1]].reshape(*f["dense/shape"][i], -1)`.

Equal inputs give equal bytes in whatever process: no times, fixed-length ids, whole chunks written in order. Every
chunk carries a Fletcher-32 checksum, so that a flipped bit is an error and not a number. Arrays of different sizes are
stored flat with offsets, not in a group for each image: a read then costs one slice. Source: choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SCHEMA = 1
IDS = "ids"
DIGESTS = "digests"
AttrValue = int | float | str


@dataclass(frozen=True)
class Field:
    """One array of every image.

    Args:
        dtype: NumPy name, e.g. "float16", "uint8".
        lead: number of leading axes that differ from image to image: 0 for (*trail), 1 for (n, *trail), 2 for
            (h, w, *trail). The trailing axes are the same for all images of a file.
        compress: gzip with byte shuffle; for label maps. Float features do not compress.
    """

    dtype: str
    lead: int
    compress: bool = False


def field_names(members: Iterable[str]) -> list[str]:
    """Return the fields among the names at the root of a file, sorted."""
    return sorted(name for name in members if name not in (IDS, DIGESTS))
