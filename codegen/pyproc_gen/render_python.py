"""Our Python files: `<file>_pyproc.py`, and the skeleton of `worker.py`."""

from __future__ import annotations

import keyword
import os
from dataclasses import dataclass, field as dataclass_field
from typing import Any, Dict, List, Sequence, Tuple

from pyproc_gen import paths, shape
from pyproc_gen.model import File, Method, Schema, Service
from pyproc_gen.names import lower
from pyproc_gen.render import render

# Attributes of pyproc_worker.Handler that an rpc may not replace; those of every object begin with `__`.
_HANDLER_ATTRIBUTES = frozenset(["pyproc_service", "on_start", "on_stop"])
_MODULE_NAMES = ("AsyncIterator", "Awaitable", "ClassVar", "Dict", "Iterator", "Tuple", "Union", "importlib",
                 "pyproc_worker", "serve", "sys", "annotations", "getattr", "int", "object", "str", "type")
_WORKER_NAMES = ("Code", "Context", "Error", "Iterator", "os", "sys")
_LINE = 120


def method_names(service: Service) -> Dict[str, str]:
    """The Python method of each rpc: its name by the rule of `names`, with `_` appended as often as it takes."""
    used: Dict[str, str] = {}
    for method in service.methods:
        name = lower(method.name)
        while keyword.iskeyword(name) or name in _HANDLER_ATTRIBUTES or name in used.values() or name.startswith("__"):
            name = f"{name.lstrip('_')}_" if name.startswith("__") else f"{name}_"
        used[method.name] = name
    return used


def handler_name(service: Service) -> str:
    """The base class of a service's handlers."""
    return f"{service.name}Handler"


@dataclass
class _Scope:
    """The names of a module, and the imports that bring some of them in."""

    taken: Dict[str, str] = dataclass_field(default_factory=dict)  # name -> what it stands for
    brought: Dict[str, str] = dataclass_field(default_factory=dict)  # what imports stand for -> name
    plain: Dict[str, List[str]] = dataclass_field(default_factory=dict)  # module -> imported names
    assignments: List[str] = dataclass_field(default_factory=list)

    def reserve(self, names: Sequence[str]) -> None:
        """Keep names for the module itself."""
        self.taken.update((name, name) for name in names)

    def is_free(self, name: str) -> bool:
        """Whether a name can be given here."""
        return name not in self.taken and not keyword.iskeyword(name) and not name.startswith("_")

    def free(self, name: str, prefix: str) -> str:
        """`name`, or where it is taken or no plain name of Python, one that begins with `prefix`."""
        trial = name
        while not self.is_free(trial):
            trial = f"{prefix}_{trial.lstrip('_')}"
        return trial

    def bring(self, module: str, name: str, identity: str = "") -> str:
        """Import `name` from `module`, unless `identity` is here already; returns what it is called here."""
        identity = identity or f"{module}:{name}"
        if identity in self.brought:
            return self.brought[identity]
        chosen = self.free(name, module.replace(".", "_").strip("_"))
        self.taken[chosen] = identity
        self.brought[identity] = chosen
        if all(part.isidentifier() and not keyword.iskeyword(part) for part in (*module.split("."), name)):
            self.plain.setdefault(module, []).append(name if name == chosen else f"{name} as {chosen}")
        else:
            self.assignments.append(f'{chosen} = getattr(importlib.import_module("{module}"), "{name}")')
        return chosen

    def imports(self) -> List[str]:
        """The import statements, in order, wrapped."""
        lines: List[str] = []
        for module in sorted(self.plain):
            names = sorted(self.plain[module])
            line = f"from {module} import {', '.join(names)}"
            if len(line) <= _LINE:
                lines.append(line)
            else:
                lines.extend([f"from {module} import (", *(f"    {name}," for name in names), ")"])
        return lines


def _docstring(*paragraphs: str) -> str:
    text = "\n\n".join(paragraph for paragraph in paragraphs if paragraph)
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _indented_docstring(indent: str, summary: str, comment: str) -> str:
    """A docstring with its quotes, as it stands in a class or function."""
    lines = _docstring(summary, comment).splitlines()
    if len(lines) == 1:
        return f'"""{lines[0]}"""'
    rest = "\n".join(f"{indent}{line}".rstrip() for line in lines[1:])
    return f'"""{lines[0]}\n{rest}\n{indent}"""'


class _Module:
    """The values for the `_pyproc` module of one schema file."""

    def __init__(self, schema: Schema, file: File) -> None:
        self.schema = schema
        self.file = file
        self.scope = _Scope()
        self.scope.reserve(_MODULE_NAMES)
        self.scope.reserve([handler_name(service) for service in file.services])
        own = paths.python_module(file.name, "_pb2")
        # Taken names are found in the `_pb2` module only: its messages are not re-exported under others.
        self.own: List[str] = []
        for name in [message.name for message in file.messages] + [enum.name for enum in file.enums]:
            if self.scope.is_free(name):
                self.own.append(self.scope.bring(own, name))
        self.used: Dict[str, str] = {}  # full name of a message -> expression
        for service in file.services:
            for method in service.methods:
                for name in (method.request, method.reply):
                    if name not in self.used:
                        self.used[name] = self._expression(name)

    def _expression(self, full_name: str) -> str:
        home = self.schema.files[self.schema.homes[full_name]]
        inner = full_name[len(home.package) + 1:] if home.package else full_name
        parts = inner.split(".")
        top = self.scope.bring(paths.python_module(home.name, "_pb2"), parts[0])
        if not any(keyword.iskeyword(part) or part.startswith("__") for part in parts[1:]):
            return ".".join([top, *parts[1:]])
        chosen = self.scope.free("_".join(parts), "message")
        self.scope.taken[chosen] = full_name
        expression = top
        for part in parts[1:]:
            expression = f'getattr({expression}, "{part}")'
        self.scope.assignments.append(f"{chosen} = {expression}")
        return chosen

    def exported(self, full_name: str) -> Tuple[str, str]:
        """What a worker imports to name a message, and the expression that names it then."""
        expression = self.used[full_name]
        return expression.split(".")[0], expression

    def _method(self, service: Service, method: Method, name: str) -> Dict[str, Any]:
        rpc = f"{service.full_name}/{method.name}"
        return {
            "rpc": method.name, "name": name, "full_name": rpc, "kind": method.kind,
            "request": self.used[method.request], "reply": self.used[method.reply],
            "fingerprint": shape.fingerprint(self.schema, method), "timeout_ms": method.timeout_ms,
            "idempotent": method.idempotent,
            **base_signature(method, self.used[method.request], self.used[method.reply]),
            "docstring": _indented_docstring(" " * 8, f"Rpc {rpc}.", method.comment),
        }

    def _service(self, service: Service) -> Dict[str, Any]:
        names = method_names(service)
        return {
            "name": service.full_name, "handler": handler_name(service),
            "docstring": _indented_docstring(
                " " * 4, f"Handlers of service {service.full_name}: derive a class and write its methods.",
                service.comment),
            "methods": [self._method(service, method, names[method.name]) for method in service.methods],
        }

    def exports(self) -> List[str]:
        """The module's public names."""
        names = {expression.split(".")[0] for expression in self.used.values()}
        return sorted({"serve", *self.own, *names, *(handler_name(service) for service in self.file.services)})

    def _standard_imports(self) -> List[str]:
        lines = ["import importlib"] if any("importlib." in line for line in self.scope.assignments) else []
        if self.file.services:
            kinds = {"ClassVar", "Dict", "Tuple"}
            for method in (method for service in self.file.services for method in service.methods):
                kinds.update(["AsyncIterator", "Iterator"] if method.server_streams else ["Awaitable"], ["Union"])
            lines.extend(["import sys", f"from typing import {', '.join(sorted(kinds))}"])
        return lines

    def render(self) -> str:
        """The module's text."""
        roots = sorted({name for service in self.file.services for method in service.methods
                        for name in (method.request, method.reply)})
        shapes = [{"name": name, "fields": [_field_text(field) for field in fields]}
                  for name, fields in shape.shapes(self.schema, roots).items()]
        subject = "Handlers and messages" if self.file.services else "Messages"
        return render("module.py.j2", docstring=f"{subject} of {self.file.name}.", file=self.file.name,
                      standard_imports=self._standard_imports(), imports=self.scope.imports(),
                      assignments=self.scope.assignments, exports=self.exports(), shapes=shapes,
                      services=[self._service(service) for service in self.file.services])


def _field_text(field: shape.FieldShape) -> str:
    number, label, kind, name = field
    return f'({number}, "{label}", "{kind}", "{name}")'


def base_signature(method: Method, request: str, reply: str) -> Dict[str, str]:
    """The parameter and the result of a base class's method, which plain and async handlers both override."""
    result = f"Iterator[{reply}], AsyncIterator[{reply}]" if method.server_streams else f"{reply}, Awaitable[{reply}]"
    return {
        "parameter": f"requests: pyproc_worker.Requests[{request}]" if method.client_streams else f"request: {request}",
        "returns": f"Union[{result}]",
    }


def plain_signature(method: Method, request: str, reply: str) -> Dict[str, str]:
    """The parameter and the result of a plain handler's method."""
    return {
        "parameter": f"requests: Iterator[{request}]" if method.client_streams else f"request: {request}",
        "returns": f"Iterator[{reply}]" if method.server_streams else reply,
    }


def generate(schema: Schema) -> Dict[str, str]:
    """The `_pyproc` modules of all schema files that are written: path -> text."""
    return {
        paths.python_file(paths.python_module(name, "_pyproc")): _Module(schema, schema.files[name]).render()
        for name in schema.emitted
    }


def requested_services(schema: Schema) -> List[Tuple[File, Service]]:
    """The services of the files that the user named, which one worker serves."""
    return [(schema.files[name], service) for name in schema.requested for service in schema.files[name].services]


def _worker_class(scope: _Scope, file: File, service: Service) -> str:
    prefix = file.package.replace(".", "_") or "service"
    name = scope.free(service.name, prefix)
    scope.reserve([name])
    return name


def worker(schema: Schema, out: str, path: str) -> str:
    """The skeleton of the user's handlers, for the file `path` and the generated modules in `out`."""
    services = requested_services(schema)
    scope = _Scope()
    scope.reserve(_WORKER_NAMES)
    first = paths.python_module(services[0][0].name, "_pyproc")
    scope.bring(first, "serve", "serve")
    classes = [_worker_class(scope, file, service) for file, service in services]
    values: List[Dict[str, Any]] = []
    streams = False
    names = {file.name for file, _ in services}
    sources = {name: _Module(schema, schema.files[name]) for name in names}
    for (file, service), name in zip(services, classes):
        module = paths.python_module(file.name, "_pyproc")
        source = sources[file.name]
        methods = []
        for method in service.methods:
            expressions = []
            for message in (method.request, method.reply):
                top, expression = source.exported(message)
                expressions.append(scope.bring(module, top, source.scope.taken[top]) + expression[len(top):])
            streams = streams or method.kind != "unary"
            methods.append({"name": method_names(service)[method.name], **plain_signature(method, *expressions),
                            "hint": ": yield its messages" if method.server_streams else "",
                            "docstring": _indented_docstring(" " * 8, f"Rpc {method.name}.", method.comment)})
        values.append({
            "name": name, "handler": scope.bring(module, handler_name(service)), "methods": methods,
            "docstring": _indented_docstring(" " * 4, f"Service {service.full_name}.", service.comment)})
    folder = os.path.relpath(os.path.abspath(out), os.path.dirname(os.path.abspath(path)))
    elsewhere = folder != os.curdir
    standard = ["import importlib"] if scope.assignments else []
    standard += ["import os", "import sys"] if elsewhere else []
    standard += ["from typing import Iterator"] if streams else []
    files = ", ".join(schema.files[name].name for name in schema.requested if schema.files[name].services)
    return render("worker.py.j2", docstring=f"Handlers of {files}: written once by pyproc-gen, yours from here on.",
                  standard_imports=standard, imports=_marked(scope.imports(), elsewhere), assignments=scope.assignments,
                  path=repr(folder.replace(os.sep, "/")) if elsewhere else "", services=values)


def _marked(lines: List[str], late: bool) -> List[str]:
    """Imports that stand below code say so to linters."""
    return [f"{line}  # noqa: E402" if late and line.startswith("from ") else line for line in lines]
