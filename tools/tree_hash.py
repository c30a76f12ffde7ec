"""The git tree hash of a folder as it lies on disk: what `git rev-parse HEAD:folder` prints where it is committed.

It is computed from the files, so that it is known on a machine that has the files and no git history.
Method: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

_IGNORED = ("__pycache__",)  # as in .gitignore, as far as native/ can hold any


def _object_hash(kind: str, content: bytes) -> bytes:
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).digest()


def tree_hash(folder: Path) -> bytes:
    """SHA-1 of the tree object; empty folders do not count, as in git."""
    entries = []
    for path in folder.iterdir():
        if path.name in _IGNORED:
            continue
        if path.is_dir():
            if any(file.is_file() for file in path.rglob("*")):
                # git sorts folders as if their names ended with a slash.
                entries.append((path.name + "/", f"40000 {path.name}", tree_hash(path)))
        else:
            mode = "100755" if path.stat().st_mode & 0o100 else "100644"
            entries.append((path.name, f"{mode} {path.name}", _object_hash("blob", path.read_bytes())))
    lines = (head.encode() + b"\0" + digest for _, head, digest in sorted(entries))
    return _object_hash("tree", b"".join(lines))


if __name__ == "__main__":
    print(tree_hash(Path(sys.argv[1])).hex())
