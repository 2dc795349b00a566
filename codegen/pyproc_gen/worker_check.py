"""Looks into a handler file that exists, without running it: which rpcs have no method there?"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field as dataclass_field
from typing import Dict, List, Set

from pyproc_gen import paths
from pyproc_gen.model import Schema
from pyproc_gen.render_python import handler_name, method_names, requested_services


@dataclass
class _Class:
    bases: List[str] = dataclass_field(default_factory=list)
    members: Set[str] = dataclass_field(default_factory=set)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""


def _read(tree: ast.Module) -> Dict[str, _Class]:
    """The classes of a module, their bases by full name."""
    names: Dict[str, str] = {}
    stars: List[str] = []
    classes: Dict[str, _Class] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names.update((item.asname or item.name, f"{node.module}.{item.name}") for item in node.names)
            stars.extend(f"{node.module}." for item in node.names if item.name == "*")
        elif isinstance(node, ast.Import):
            names.update((item.asname, item.name) for item in node.names if item.asname)
        elif isinstance(node, ast.ClassDef):
            entry = classes.setdefault(node.name, _Class())
            entry.bases.extend(_dotted(base) for base in node.bases)
            for item in node.body:
                if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    entry.members.add(item.name)
                elif isinstance(item, ast.Assign):
                    entry.members.update(target.id for target in item.targets if isinstance(target, ast.Name))
    for entry in classes.values():
        entry.bases = [full for base in entry.bases for full in _resolve(base, names, stars)]
    return classes


def _resolve(base: str, names: Dict[str, str], stars: List[str]) -> List[str]:
    """What a base may be: itself where it is a class of the module, else what it was imported as."""
    first, dot, rest = base.partition(".")
    if first in names:
        return [names[first] + dot + rest]
    return [base, *(star + base for star in stars)]


def _members(classes: Dict[str, _Class], name: str, seen: Set[str]) -> Set[str]:
    if name in seen or name not in classes:
        return set()
    seen.add(name)
    found = set(classes[name].members)
    for base in classes[name].bases:
        found |= _members(classes, base, seen)
    return found


def _derives(classes: Dict[str, _Class], name: str, handler: str, seen: Set[str]) -> bool:
    if name in seen or name not in classes:
        return False
    seen.add(name)
    return any(base == handler or _derives(classes, base, handler, seen) for base in classes[name].bases)


def notes(schema: Schema, path: str, text: bytes) -> List[str]:
    """What the handler file lacks, one line each."""
    try:
        classes = _read(ast.parse(text))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        return [f"{path}:{line}:1: note: this is not valid Python ({error.args[0]}); its methods were not compared"]
    found: List[str] = []
    for file, service in requested_services(schema):
        handler = f"{paths.python_module(file.name, '_pyproc')}.{handler_name(service)}"
        deriving = [name for name in classes if _derives(classes, name, handler, set())]
        if not deriving:
            found.append(f"{path}:1:1: note: no class derives from {handler}, which service {service.full_name} needs")
            continue
        present: Set[str] = set()
        for name in deriving:
            present |= _members(classes, name, set())
        for rpc, method in method_names(service).items():
            if method not in present:
                found.append(f"{path}:1:1: note: class {deriving[0]} has no method {method}, which rpc "
                             f"{service.full_name}/{rpc} needs")
    return found
