"""The files of a run folder: found by name, written whole, and in memory where the disk has no room."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from clipgen.errors import ClipgenError

STATE = "state.safetensors"


class Folder:
    """The files of a run folder, by names such as ``frames/00003.png``."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.trouble = ""  # why something could not be written, as long as it is not
        self._unsaved: dict[str, bytes] = {}  # what had no room on the disk, by its name

    def _path(self, name: str) -> Path:
        """Return where a file of this folder is: every file that is read, written or deleted is named by it.

        Raises ClipgenError for one that lies elsewhere, because of symbolic links in a folder that somebody sent, and
        for a pipe or a device.
        """
        path = self.folder / name
        try:
            inside = path.resolve().is_relative_to(self.folder.resolve())
        except (OSError, RuntimeError, ValueError):  # links in a circle, no name of a file
            inside = False
        if not inside:
            raise ClipgenError(f"{path}: a link leads out of the run folder, and is not followed; delete it")
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ClipgenError(f"{path}: this is no plain file; delete it")
        return path

    def _replace(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all. Where there is no room its content stays in memory, for who reads it here.

        Raises OSError.
        """
        path = self._path(name)
        part = path.with_name(f"{path.name}.part")
        try:
            part.unlink(missing_ok=True)  # a link would be written through
            part.write_bytes(content)
            os.replace(part, path)
            self._unsaved.pop(name, None)
        except OSError as error:
            if name != STATE:  # as large as all else together, and of no use without the folder
                self._unsaved[name] = content
            self.trouble = error.strerror or str(error)
            raise
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def _source(self, name: str) -> Path | bytes:
        """Return where a file is, or its content where the disk had no room for it."""
        content = self._unsaved.get(name)
        return self._path(name) if content is None else content

    def _text(self, name: str) -> str:
        """Return the content of a text file, empty if there is none. Raises ClipgenError if it cannot be read."""
        source = self._source(name)
        try:
            return (source.read_bytes() if isinstance(source, Path) else source).decode(errors="replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise ClipgenError(f"{source!s}: cannot be read ({error.strerror}); delete it") from error
