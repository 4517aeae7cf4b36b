"""Picture files: written whole, or an error says why not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image


def write_picture(image: Image.Image, path: Path, kind: str, **options: Any) -> None:
    """Encode a picture in memory and write it.

    Pillow would write to the file's descriptor itself, and does not look at how much of that was written: on a full
    disk or beyond a limit of file sizes the picture is cut off without an error.

    Args:
        image: the picture.
        path: the file; replaced if it is there.
        kind: "PNG" or "JPEG".
        options: for Pillow's writer.
    """
    content = io.BytesIO()
    image.save(content, kind, **options)
    path.write_bytes(content.getvalue())
