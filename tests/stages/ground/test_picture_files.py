"""A picture that the system cuts off is an error, and no file looks whole that is not."""

from __future__ import annotations

import errno
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from split_matching.stages.ground.picture_files import write_picture

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {"quality": 95, "subsampling": 0})])
def test_the_bytes_are_those_of_pillow_or_an_error(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    PICTURE.save(tmp_path / "by_pillow", kind, **options)
    path, whole = tmp_path / "picture", (tmp_path / "by_pillow").read_bytes()
    path.write_bytes(b"older")
    write_picture(PICTURE, path, kind, **options)
    assert path.read_bytes() == whole
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (1, len(whole) // 2, len(whole) - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            with pytest.raises(OSError) as caught:
                write_picture(PICTURE, path, kind, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert caught.value.errno == errno.EFBIG
