"""Images from a folder of anybody's: with a sub-folder for each class, of known formats and bounded size, none from elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.rules import UserError, checksum_words, leads_outside

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
"""What Pillow unpacks by itself. Of others it knows some are programs: an EPS file it would have Ghostscript execute."""

MOST_PIXELS = 8192 * 8192
"""Of one picture: it is unpacked whole before it is made small, this one to 200 MB and more."""

MOST_IMAGES = 1_000_000
"""Of one set: it is held whole in memory, and as many colour images of 64 x 64 are 12 GB."""


def read_folder(folder: Path, side: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Reads all pictures below a folder's sub-folders.

    Args:
        folder: With a sub-folder for each class.
        side: To which every picture is resized.

    Returns:
        Images (N, C, side, side), with one channel where all are grey and with three otherwise, and labels (N,): the
        places of their sub-folders in the order of names.

    Raises:
        UserError: if one is no picture or too large, leads out of the folder, or if there are none or too many.
    """
    try:
        files = list(_list_pictures(folder))
    except OSError as error:
        raise UserError(f"dataset folder:{folder} cannot be listed ({error}): make all of it readable") from None
    if not files:
        raise UserError(f"dataset folder:{folder}: no images found; it needs a sub-folder of images for each class")
    with _strict_pillow():
        pictures = [_read_picture(path, side) for path, _ in files]
    if any(picture.ndim == 3 for picture in pictures):
        pictures = [picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2) for picture in pictures]
        images = np.stack(pictures).transpose(0, 3, 1, 2)
    else:
        images = np.stack(pictures)[:, None]
    return np.ascontiguousarray(images), np.array([label for _, label in files], dtype=np.int64)


def _list_pictures(folder: Path) -> Iterator[tuple[Path, int]]:
    """Every picture and its class; hidden files and what has no picture's name are passed over."""
    from PIL import Image

    count, named = 0, Image.registered_extensions()
    classes = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    for label, each in enumerate(classes):
        _refuse_link_outside(each, folder)
        for path in sorted(each.rglob("*")):
            if _is_hidden(path.relative_to(each)) or not (path.suffix.lower() in named or path.is_dir()):
                continue
            _refuse_link_outside(path, folder)
            if path.is_file():
                count += 1
                if count > MOST_IMAGES:
                    raise UserError(
                        f"dataset folder:{folder} has more than {MOST_IMAGES} images, which are allowed: give it fewer"
                    )
                yield path, label


def _refuse_link_outside(path: Path, folder: Path) -> None:
    """Refuses a link that leads elsewhere: only the path itself can be one, as links to folders are not followed below."""
    if path.is_symlink() and leads_outside(path, folder):
        raise UserError(f"{path} is a link that leads out of {folder}: allowed is what lies in it; copy it there or take it out")


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Has Pillow refuse what is too large before it unpacks it, and say nothing of the rest."""
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _read_picture(path: Path, side: int) -> npt.NDArray[np.uint8]:
    """Gives (side, side) for a grey picture and (side, side, 3) for any other."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as file:
            picture = _in_eight_bits(file)
            mode = "L" if picture.mode in ("1", "L", "LA") else "RGB"
            return np.asarray(picture.convert(mode).resize((side, side), Image.Resampling.BILINEAR))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(f"{path} has more than the {MOST_PIXELS} pixels that are allowed: make it smaller") from None
    except Exception as error:  # what unpacks a broken file may raise anything
        cause = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path} cannot be read as an image ({cause[:200]}), {checksum_words(path)}: "
            f"mend it or take it out; allowed are {', '.join(FORMATS)}"
        ) from None


def _in_eight_bits(picture: Any) -> Any:
    """Brings 16 bits to 8, which Pillow would cut off at white, and a palette with transparent colours to colours."""
    from PIL import Image

    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers; give them as npz:PATH")
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        if values.min() < 0 or values.max() >= 2**16:
            raise ValueError("its pixels have more than 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8))
    return picture.convert("RGBA") if picture.mode == "P" and "transparency" in picture.info else picture
