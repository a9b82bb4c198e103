"""Check that imports point one way: ``python scripts/import_directions.py [ROOT]`` prints every import that does not.

The rules are the tables below. An import counts wherever it stands, in a function or under TYPE_CHECKING as well: what the code
below the line knows of the code above it is knowledge, at whatever moment it is loaded.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "pushq"

#: The parts of the package, from the ground up. A part imports only parts of the rows above its own here.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"collector", "errors", "platforms", "together", "version"}),
    frozenset({"rendering", "service_urls", "settings_objects"}),
    frozenset({"app_settings"}),
    frozenset({"settings"}),
    frozenset({"redaction"}),
    frozenset(
        {"database", "logs", "metrics", "migrations", "notification", "redis_client", "rejects", "tracing"}
    ),
    frozenset({"http2", "embedded", "mock"}),
    frozenset({"reload"}),
    frozenset({"bench", "providers"}),
    frozenset({"limits"}),
    frozenset({"audience"}),
    frozenset({"submission"}),
    frozenset({"access", "ledger", "tokens"}),
    frozenset({"control", "delivery"}),
    frozenset({"app"}),
    frozenset({"tasks"}),
    frozenset({"demo", "doctor", "observe"}),
    frozenset({"loadtest"}),
    frozenset({"web"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)

#: The package itself offers names of every layer, for applications. Inside, only the top may take them from there.
ENTRY = frozenset({"cli", "web", "__main__"})

#: Parts that could live outside of pushq, and all of pushq that they may import.
APART: Mapping[str, frozenset[str]] = {
    "http2": frozenset({"errors"}),
    "embedded": frozenset({"errors"}),
    "mock": frozenset({"errors"}),
    "rendering": frozenset({"errors"}),
}

#: Libraries that belong to some parts, by their top-level name.
LIBRARIES: Mapping[str, frozenset[str]] = {
    "sqlalchemy": frozenset({"access", "database", "ledger", "tokens", "audience", "migrations"}),
    "alembic": frozenset({"ledger", "migrations"}),
    "celery": frozenset({"app", "tasks", "cli", "web"}),
}

#: The protocol core: bytes in, events out. The rule covers what it imports of its own part, too.
PURE_MODULE = f"{PACKAGE}.http2.core"
IMPURE = frozenset(
    {"socket", "ssl", "gevent", "time", "logging", "select", "selectors", "threading", "random"}
)


@dataclass(frozen=True)
class Import:
    """One import statement's target, as written in ``importer`` (a dotted module name)."""

    importer: str
    imported: str
    path: Path
    line: int

    def complain(self, why: str) -> str:
        return f"{self.path}:{self.line}: {self.importer} imports {self.imported}: {why}"


def violations(root: Path) -> list[str]:
    """One line for each import below ``root`` (the folder that holds the package) that breaks a rule."""
    modules = {_dotted(path.relative_to(root)): path for path in sorted((root / PACKAGE).rglob("*.py"))}
    imports = [found for name, path in modules.items() for found in _imports(name, path, modules)]
    pure = _reachable(PURE_MODULE, imports)
    return [found.complain(why) for found in imports for why in _broken_rules(found, pure)]


def _broken_rules(found: Import, pure: frozenset[str]) -> Iterator[str]:
    top = found.imported.partition(".")[0]
    part = _part(found.importer)
    if found.importer in pure and top in IMPURE:
        yield f"{PURE_MODULE} and what it is made of know neither sockets nor clocks nor logs"
    if part is None:
        return  # pushq/__init__.py offers names of every layer
    if top in LIBRARIES and part not in LIBRARIES[top]:
        yield f"only {', '.join(sorted(LIBRARIES[top]))} may"
    if top != PACKAGE:
        return
    target = _part(found.imported)
    if target is None:
        if part not in ENTRY:
            yield f"the names of {PACKAGE} itself are for applications and for {', '.join(sorted(ENTRY))}"
        return
    if target == part:
        return
    ours, theirs = _layer(part), _layer(target)
    if ours is None or theirs is None:
        yield f"{part if ours is None else target} is in no layer; add it to LAYERS in {Path(__file__).name}"
    elif part in APART and target not in APART[part]:
        yield f"{part} stands apart and may import only {', '.join(sorted(APART[part]))} of {PACKAGE}"
    elif theirs >= ours:
        yield f"{target} is not below {part}"


def _layer(part: str) -> int | None:
    return next((number for number, parts in enumerate(LAYERS) if part in parts), None)


def _part(module: str) -> str | None:
    """The part of the package that a module belongs to; None for the package itself."""
    names = module.split(".")
    return names[1] if len(names) > 1 else None


def _dotted(path: Path) -> str:
    names = list(path.with_suffix("").parts)
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def _imports(module: str, path: Path, modules: Mapping[str, Path]) -> Iterator[Import]:
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, path, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = _base(module, path, node)
            for alias in node.names:
                # `from pushq.http2 import core` imports a module, `from pushq.http2 import Core` a name of one.
                whole = f"{base}.{alias.name}"
                is_module = whole in modules
                yield Import(module, whole if is_module else base, path, node.lineno)


def _base(module: str, path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{node.module}" if node.module else package


def _reachable(start: str, imports: list[Import]) -> frozenset[str]:
    """``start`` and the modules of its own part that it imports, directly or not."""
    known: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        if module not in known:
            known.add(module)
            waiting += [
                i.imported for i in imports if i.importer == module and _part(i.imported) == _part(start)
            ]
    # The part's __init__ collects the names of all its modules; importing a module of the part does not depend on that.
    return frozenset(known - {start.rpartition(".")[0]})


def main(arguments: list[str]) -> int:
    """Print the violations; 1 when there are any."""
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    found = violations(root)
    sys.stdout.write("".join(f"{line}\n" for line in found) or "Import directions: all as they should be.\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
