"""Sound files of every kind that comes from outside, to be mutated."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from pathlib import Path


def sound_images(folder: Path) -> list[Path]:
    """Images of all formats that are read, with Exif."""
    from PIL import Image

    exif = Image.Exif()
    exif[274] = 6
    gray = Image.radial_gradient("L").resize((40, 30))
    found = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000"):
        for mode in ("L", "RGB", "P"):
            if (kind, mode) in (("JPEG", "P"), ("WEBP", "P"), ("JPEG2000", "P")):
                continue
            found.append(folder / f"{mode}.{kind.lower()}")
            gray.convert(mode).save(found[-1], kind, exif=exif)
    return found


def sound_archives(folder: Path) -> list[Path]:
    """Archives of the kinds in which data sets come."""
    found = [folder / "a.zip"]
    with zipfile.ZipFile(found[0], "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("a/b.txt", b"text " * 20)
        bundle.writestr("a/c.txt", b"text")
    for kind in ("gz", "bz2", "xz", ""):
        found.append(folder / f"a.tar{'.' * bool(kind)}{kind}")
        with tarfile.open(found[-1], f"w:{kind}") as tar:
            for name in ("a/b.txt", "a/c.txt"):
                info = tarfile.TarInfo(name)
                info.size = 4
                tar.addfile(info, io.BytesIO(b"text"))
    return found


def sound_weights(folder: Path) -> list[Path]:
    """Weights in each of the forms that are read, and an export."""
    import torch
    from safetensors.torch import save_file

    from split_matching.stages.inference.exported_decoder import write_export

    values = {"a.weight": torch.arange(60.0).reshape(6, 10), "b": torch.ones(3, dtype=torch.float16)}
    names = ("a.safetensors", "a.pt", "legacy.pt", "script.pt", "export.safetensors")
    found = [folder / name for name in names]
    save_file(values, found[0])
    torch.save({"state_dict": values}, found[1])
    torch.save(values, found[2], _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.script(torch.nn.Linear(3, 2)), str(found[3]))
    write_export(found[4], {"x": 1}, values)
    return found


def sound_matlab_masks(folder: Path) -> list[Path]:
    """A mask in the form of each data set that has MATLAB files."""
    import numpy as np
    from scipy.io import savemat

    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    content: dict[str, dict[str, object]] = {
        "sbd.mat": {"GTcls": {"Boundaries": np.array([["a", "b"]], object), "Segmentation": mask}},
        "context.mat": {"LabelMap": mask.astype(np.uint16)},
    }
    for name, values in content.items():
        savemat(folder / name, values, do_compression=True)
    return [folder / name for name in content]


def sound_settings(folder: Path) -> list[Path]:
    """Configs, class lists and a list of images."""
    configs = Path(__file__).parents[2] / "configs"
    found = []
    for path in (*configs.glob("*.yaml"), *configs.glob("ablations/*.yaml"), *configs.glob("classes/*")):
        found.append(folder / path.name)
        shutil.copy(path, found[-1])
    found.append(folder / "list.txt")
    found[-1].write_text("2007_000032\n2007_000039\n2007_000063 1\n")
    return found
