"""Relative imports of the pack's modules, read from their source, for tests of the layout."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RelativeImport:
    """One name that a module imports relatively."""

    importer: Path
    """File with the import statement."""
    line: int
    """Its line."""
    source: Path
    """Folder of the package, or path of the module without `.py`, that the name is taken from."""
    name: str
    """The imported name: of a submodule or of something that the source defines."""

    @property
    def module(self) -> Path:
        """Path, without `.py`, of the imported module or package."""
        submodule = self.source / self.name
        is_module = submodule.with_suffix(".py").is_file() or submodule.is_dir()
        return submodule if is_module else self.source


def relative_imports(folder: Path) -> Iterator[RelativeImport]:
    """All relative imports in the modules below a folder, also those inside functions."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                parts = node.module.split(".") if node.module else ()
                source = path.parents[node.level - 1].joinpath(*parts)
                for alias in node.names:
                    yield RelativeImport(path, node.lineno, source, alias.name)
