"""Locating: from the image names of a table to files on this machine.

Owns the list of image extensions, the listing of folders and the look-up of a
name in them. It must not open an image or read a table.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from loupe.errors import TableError, shorten

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
"""Endings of image files, whatever their case."""
_DRIVE = re.compile(r"[A-Za-z]:/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Where the images of some rows lie.

    Attributes:
        paths: One file a row; it may be missing.
        notes: What was completed and what is missing.
    """

    paths: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def explain_no_images(folder: Path) -> str:
    """Say that a folder holds no images, and what was looked for.

    Args:
        folder: Where they were looked for.
    """
    return (
        f"{folder}: there are 0 images in this folder or below it. Expected files that end in "
        f"{', '.join(EXTENSIONS)}; name the folder that holds them."
    )


def is_image(name: str) -> bool:
    """Tell by its ending whether a file is an image.

    Args:
        name: A file name or path.

    Examples:
        >>> is_image("dog/a.JPG"), is_image("labels.csv"), is_image("0a1f")
        (True, False, False)
    """
    return name.lower().endswith(EXTENSIONS)


def strip_extension(name: str) -> str:
    """Cut the ending off an image name; other names stay whole.

    Args:
        name: A file name or path.

    Examples:
        >>> strip_extension("dog/a.JPG"), strip_extension("part.3")
        ('dog/a', 'part.3')
    """
    return name[: name.rindex(".")] if is_image(name) else name


def list_images(folder: Path, *, deep: bool = True) -> list[str]:
    """List the images of a folder in an order that no file system changes.

    Args:
        folder: Where to look. Hidden files and folders are left out.
        deep: Look into folders below as well.

    Returns:
        Paths relative to `folder`, with "/" between the parts, by code point.

    Raises:
        TableError: the folder is missing, or a file name is not valid text.
    """
    if not folder.is_dir():
        raise TableError(f"{folder}: there is no such folder.")
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if deep and not name.startswith(".")]
        prefix = Path(place).relative_to(folder).as_posix()
        found += [
            name if prefix == "." else f"{prefix}/{name}"
            for name in files
            if not name.startswith(".") and is_image(name)
        ]
    odd = [repr(name) for name in found if not name.isascii() and not _is_text(name)]
    if odd:
        raise TableError(f"{folder}: {len(odd)} file name(s) are not UTF-8: {shorten(odd)}.")
    return sorted(found)


def locate_images(
    names: Sequence[str], folder: Path, where: str, *, needed: bool = True
) -> Located:
    """Find the file of each image name, without opening any.

    A name is looked up as it stands; one that has no image extension, as in
    tables of bare ids, is completed if exactly one image fits. A name that is not
    there is tried again without surrounding blanks and with its accents composed
    (NFC) and decomposed (NFD), as some file systems and archives write them.
    Missing files are no error here, since a table is checked as a whole later;
    only when not one file is found is the place wrong.

    Args:
        names: As the table writes them, relative to `folder`.
        folder: The images' folder.
        where: The table's name for messages.
        needed: False is content where not one file is there.

    Returns:
        A path for each name.

    Raises:
        TableError: a name leads out of the folder, fits several files, or none
            of the files is there.
    """
    spellings = [_spell_ways(name, folder) for name in names]
    _refuse_escapes(names, spellings, folder, where)
    look = _Listing(folder)
    ends = [look.find_first(ways) for ways in spellings]
    _refuse_ambiguous(names, [fits for _, fits in ends], where)
    missing = [i for i, (_, fits) in enumerate(ends) if not fits]
    relative = [ways[0] for ways in spellings]
    if needed and len(missing) == len(names):
        raise TableError(_explain_nothing_found(names, relative, folder, where))
    paths = [folder / (fits[0] if fits else way) for way, fits in ends]
    completed = sum(bool(fits) and fits[0] != way for way, fits in ends)
    respelled = [i for i, (way, fits) in enumerate(ends) if fits and way != relative[i]]
    notes = []
    if completed:
        notes.append(f"{completed} image names have no extension and were completed from {folder}")
    if respelled:
        some = shorten([repr(names[i]) for i in respelled], 3)
        notes.append(
            f"{len(respelled)} image files were found only without surrounding blanks or with "
            f"accents composed otherwise (NFC, NFD): {some}"
        )
    if missing:
        some = shorten([repr(names[i]) for i in missing], 3)
        notes.append(f"{len(missing)} image files are missing from {folder}: {some}")
    return Located(paths=tuple(paths), notes=tuple(notes))


class _Listing:
    """File names of the folders asked for, each folder read once.

    One listing is far quicker than a question for each of 100,000 files, above
    all on network drives.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = cache(self._read_names)
        self._stems = cache(self._read_stems)

    def _read_names(self, parent: str) -> frozenset[str]:
        place = self._folder / parent
        return frozenset(e.name for e in os.scandir(place)) if place.is_dir() else frozenset()

    def _read_stems(self, parent: str) -> dict[str, list[str]]:
        stems: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self._names(parent)):
            if is_image(name) and not name.startswith("."):
                stems[strip_extension(name)].append(name)
        return stems

    def find(self, relative: str) -> list[str]:
        """Return the relative paths that fit: none, one, or several."""
        parent, _, name = relative.rpartition("/")
        if name in self._names(parent):
            return [relative]
        if is_image(name):
            return []
        fits = self._stems(parent).get(name, [])
        return [f"{parent}/{fit}" if parent else fit for fit in fits]

    def find_first(self, ways: Sequence[str]) -> tuple[str, list[str]]:
        """Return the first of some spellings that fits, and the paths; else the first."""
        for way in ways:
            fits = self.find(way)
            if fits:
                return way, fits
        return ways[0], []


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _to_relative(name: str, folder: Path) -> str:
    """Turn what the table writes into a path below the folder, if it is one."""
    path = name.replace("\\", "/")
    if (path.startswith("/") or _DRIVE.match(path)) and ".." not in path:
        path = strip_base(path, folder.absolute().as_posix())
    return path if "//" not in path and "./" not in path else os.path.normpath(path)


def strip_base(path: str, base: str) -> str:
    """Cut a folder off the paths below it; other paths stay whole.

    Args:
        path: An absolute path with "/" between its parts.
        base: An absolute folder, likewise. Case does not matter on a drive.

    Examples:
        >>> strip_base("/data/img/a.jpg", "/data/img")
        'a.jpg'
        >>> strip_base("c:/Data/img/sub/a.jpg", "C:/data/img")
        'sub/a.jpg'
        >>> strip_base("/data/img2/a.jpg", "/data/img")
        '/data/img2/a.jpg'
    """
    start = base.rstrip("/") + "/"
    head = path[: len(start)]
    same = head.lower() == start.lower() if _DRIVE.match(start) else head == start
    return path[len(start) :] if same else path


def _spell_ways(name: str, folder: Path) -> tuple[str, ...]:
    """Return the paths below the folder that a name may mean, as written first."""
    bare = name.strip()
    if bare == name and name.isascii():
        return (_to_relative(name, folder),)
    forms = (name, bare, unicodedata.normalize("NFC", bare), unicodedata.normalize("NFD", bare))
    return tuple(dict.fromkeys(_to_relative(form, folder) for form in forms))


def _refuse_escapes(
    names: Sequence[str], spellings: Sequence[Sequence[str]], folder: Path, where: str
) -> None:
    out = [n for n, ways in zip(names, spellings, strict=True) if any(map(_escapes, ways))]
    if not out:
        return
    absolute = [name for name in out if Path(name).is_absolute() and ".." not in name]
    hint = "write them relative to the images' folder"
    if len(absolute) == len(out) and len({Path(name).drive.lower() for name in out}) == 1:
        hint += f", or pass --images {os.path.commonpath([Path(n).parent for n in out])}"
    raise TableError(
        f"{where}: {len(out)} image name(s) lead out of {folder}: "
        f"{shorten([repr(name) for name in out])}; {hint}."
    )


def _escapes(path: str) -> bool:
    return path == ".." or path.startswith(("/", "../")) or bool(_DRIVE.match(path)) or "\0" in path


def _refuse_ambiguous(names: Sequence[str], ends: Iterable[list[str]], where: str) -> None:
    several = [
        f"{name!r} fits {' and '.join(fits)}"
        for name, fits in zip(names, ends, strict=True)
        if len(fits) > 1
    ]
    if several:
        raise TableError(
            f"{where}: {len(several)} image name(s) without an extension fit several files: "
            f"{shorten(several)}. Write the extension in the table."
        )


def _explain_nothing_found(
    names: Sequence[str], relative: Sequence[str], folder: Path, where: str
) -> str:
    first = shorten([repr(name) for name in names], 3)
    start = f"{where}: none of the {len(names)} images ({first}) is in {folder}"
    if not folder.is_dir():
        return f"{start}, which does not exist. Pass the images' folder with --images."
    below = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    for place in below:
        if any(_Listing(place).find(name) for name in relative[:8]):
            return f"{start}; they are in {place}: pass --images {place}."
    nested = PurePosixPath(relative[0]).name
    if _Listing(folder).find(nested):
        return f"{start}; but {folder / nested} exists: take the folder out of the names."
    return f"{start}. Pass the folder that these names start from with --images."
