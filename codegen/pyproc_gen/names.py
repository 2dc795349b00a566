"""Names in generated code.

One rule, protoc-gen-c's own: `_` before an upper-case letter whose predecessor is not upper-case, all in lower case,
dots to `_`. Where two names of a run would be equal, these rules give one of them another name; what they cannot solve
is refused.

* A field that is a keyword of C or C++, a common macro or a type such as `size_t`, or equals a member that protobuf-c
  adds to the same struct (`base`, `n_x` beside a repeated `x`, `has_x` beside an optional `x`, `x_case` beside a oneof
  `x`), or equals another field in lower case, gets `_` appended, as often as it takes. So does a Python method that is
  a keyword or is taken.
* Of two messages, enums, oneofs, services or rpcs of one file whose C names collide, the one declared later gets `_2`
  appended to its own name (`_3`, ...): `Foo_Bar` beside `FooBar` is `FooBar2` in C, `rpc foo` beside `rpc Foo` is
  `foo_2`. Messages and enums go first, then oneofs, then services and rpcs. On the wire and in JSON nothing is renamed.
* A service whose C names would be the library's or the system's (`pyproc_`, `pthread_`, ...) gets `x_` in front.
* Names of different files that collide are refused: what is written for a file never depends on the run's other files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field as dataclass_field
from typing import Callable, Dict, Iterable, List, Optional, Set, Tuple

from pyproc_gen.errors import Problems
from pyproc_gen.model import Enum, Field, File, Location, Message, Method, Schema, Service

# Keywords of C11, C23, C++20, and macros in lower case that the standard headers or gcc define.
C_RESERVED = frozenset(
    """
    alignas alignof and and_eq asm atomic_cancel atomic_commit atomic_noexcept auto bitand bitor bool break case
    catch char char16_t char32_t char8_t class co_await co_return co_yield compl concept const const_cast consteval
    constexpr constinit continue decltype default delete do double dynamic_cast else enum explicit export extern
    false float for friend goto if import inline int long module mutable namespace new noexcept not not_eq nullptr
    operator or or_eq private protected public reflexpr register reinterpret_cast requires restrict return short
    signed sizeof static static_assert static_cast struct switch synchronized template this thread_local throw true
    try typedef typeid typename typeof typeof_unqual union unsigned using virtual void volatile wchar_t while xor
    xor_eq complex errno i386 imaginary linux noreturn stderr stdin stdout unix
    """.split()
)

# Types of the standard headers and of protobuf-c: in C++ no member may have the name of a type that its struct uses.
C_TYPEDEFS = frozenset(
    """
    blkcnt_t protobuf_c_boolean blksize_t clock_t dev_t gid_t id_t ino_t int16_t int32_t int64_t int8_t intmax_t
    intptr_t key_t max_align_t mode_t nlink_t off_t pid_t ptrdiff_t sig_atomic_t size_t ssize_t suseconds_t time_t
    uid_t uint16_t uint32_t uint64_t uint8_t uintmax_t uintptr_t
    """.split()
)

# protoc-gen-c's own list: these it renames itself, and names the constants of their oneofs without the `_`.
PROTOBUF_C_KEYWORDS = frozenset(
    """
    and and_eq asm auto bitand bitor bool break case catch char class compl const const_cast continue default delete
    do double dynamic_cast else enum explicit export extern false float for friend goto if inline int long mutable
    namespace new not not_eq operator or or_eq private protected public register reinterpret_cast return short
    signed sizeof static static_cast struct switch template this throw true try typedef typeid typename union
    unsigned using virtual void volatile wchar_t while xor xor_eq
    """.split()
)

# Types and macros without `_` that a message of a file without a package could hit in common headers.
C_RESERVED_TYPES = frozenset(
    """
    BUFSIZ DIR EOF FALSE FILE I INFINITY NAN NULL TRUE E2BIG EACCES EAGAIN EBADF EBUSY ECHILD EDOM EEXIST EFAULT
    EFBIG EINTR EINVAL EIO EISDIR EMFILE EMLINK ENFILE ENODEV ENOENT ENOEXEC ENOLCK ENOMEM ENOSPC ENOSYS ENOTDIR
    ENOTTY ENXIO EPERM EPIPE ERANGE EROFS ESPIPE ESRCH ETIMEDOUT EXDEV SIGABRT SIGALRM SIGBUS SIGCHLD SIGCONT SIGFPE
    SIGHUP SIGILL SIGINT SIGKILL SIGPIPE SIGQUIT SIGSEGV SIGSTOP SIGTERM ProtobufCAllocator ProtobufCBinaryData
    ProtobufCBuffer ProtobufCBufferSimple ProtobufCEnumDescriptor ProtobufCEnumValue ProtobufCEnumValueIndex
    ProtobufCFieldDescriptor ProtobufCFieldFlag ProtobufCIntRange ProtobufCLabel ProtobufCMessage
    ProtobufCMessageDescriptor ProtobufCMessageInit ProtobufCMessageUnknownField ProtobufCMethodDescriptor
    ProtobufCService ProtobufCServiceDescriptor ProtobufCServiceDestroy ProtobufCType ProtobufCWireType
    ProtobufCClosure
    """.split()
)

C_RESERVED_GLOBAL = C_RESERVED | C_TYPEDEFS | C_RESERVED_TYPES

C_RESERVED_PREFIXES = (
    "aio_", "clock_", "mq_", "posix_", "protobuf_c_", "pthread_", "pyproc_", "sched_", "sem_", "shm_", "timer_",
)

# What each kind of rpc is called in C. All of it is kept free, also what a stream of another direction needs, so that
# a changed direction renames no other rpc.
UNARY_SUFFIXES = ("", "_with", "_submit", "_start", "_finish", "_done", "_method", "__deliver", "__retry")
STREAM_SUFFIXES = (
    "_open", "_send", "_done_sending", "_recv", "_recv_submit", "_send_submit", "_close", "_done", "_method",
    "__deliver",
)


def lower(name: str) -> str:
    """`GetHTTPInfo` -> `get_httpinfo`."""
    return re.sub(r"(?<=[^A-Z])([A-Z])", r"_\1", name).lower()


def upper(name: str) -> str:
    """`GetHTTPInfo` -> `GET_HTTPINFO`."""
    return lower(name).upper()


def camel(name: str) -> str:
    """`foo_bar` -> `FooBar`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


@dataclass(frozen=True)
class TypeName:
    """A message or enum in C: `Foo__Bar`, `foo__bar`, `FOO__BAR`; and its own name as protoc-gen-c is told it."""

    own: str
    type: str
    lower: str
    upper: str


@dataclass(frozen=True)
class Names:
    """All names that had to be decided."""

    types: Dict[str, TypeName] = dataclass_field(default_factory=dict)  # by full name of the message or enum
    # (message, field or oneof) -> its name as protoc-gen-c is told it
    fields: Dict[Tuple[str, str], str] = dataclass_field(default_factory=dict)
    oneofs: Dict[Tuple[str, str], str] = dataclass_field(default_factory=dict)
    services: Dict[str, str] = dataclass_field(default_factory=dict)  # full name -> C prefix
    methods: Dict[Tuple[str, str], str] = dataclass_field(default_factory=dict)  # (service, rpc) -> C name
    renamed: List[str] = dataclass_field(default_factory=list)  # notes, one for each rpc or type with another name


@dataclass(frozen=True)
class _Owner:
    what: str
    file: str
    location: Location


class _Scope:
    """The identifiers of C's global scope and who took them."""

    def __init__(self) -> None:
        self.taken: Dict[str, _Owner] = {}

    def clash(self, names: Iterable[str]) -> Tuple[str, _Owner]:
        """The first of `names` that is taken, and its owner; an empty name when all are free."""
        for name in names:
            if name in self.taken:
                return name, self.taken[name]
        return "", _Owner("", "", Location(""))

    def take(self, names: Iterable[str], owner: _Owner) -> None:
        """Reserve names."""
        for name in names:
            self.taken[name] = owner


def _c_type(outer: str, package: str, own: str) -> TypeName:
    parts = [part for part in (*package.split("."), *outer.split("."), own) if part]
    return TypeName(own, "__".join(map(camel, parts)), "__".join(map(lower, parts)), "__".join(map(upper, parts)))


def _message_names(name: TypeName) -> List[str]:
    suffixes = ("init", "get_packed_size", "pack", "pack_to_buffer", "unpack", "free_unpacked", "descriptor",
                "field_descriptors", "field_indices_by_name", "number_ranges", "info", "field_infos")
    return [name.type, f"{name.type}_Closure", f"{name.upper}__INIT",
            *(f"{name.lower}__{suffix}" for suffix in suffixes)]


def _enum_names(name: TypeName, enum: Enum) -> List[str]:
    suffixes = ("descriptor", "enum_values_by_number", "value_ranges", "enum_values_by_name")
    return [name.type, f"_{name.type}", f"_{name.upper}_IS_INT_SIZE",
            *(f"{name.lower}__{suffix}" for suffix in suffixes),
            *(f"{name.upper}__{value.name}" for value in enum.values)]


class _Namer:
    """Gives the names of all files of a run, one file after the other."""

    def __init__(self, schema: Schema, problems: Problems) -> None:
        self.schema = schema
        self.problems = problems
        self.scope = _Scope()
        self.names = Names()

    def _choose(self, own: str, owner: _Owner, candidates: Callable[[str], List[str]], option: str = "") -> str:
        """The first of `own`, `own_2`, ... whose identifiers are free; reserves them.

        `option` is the option that demands `own`, if one does. A clash that cannot be solved is a problem.
        """
        reason = ""
        for attempt in range(1, 1000):
            trial = own if attempt == 1 else f"{own}_{attempt}"
            identifiers = candidates(trial)
            name, other = self.scope.clash(identifiers)
            reserved = sorted(C_RESERVED_GLOBAL.intersection(identifiers))
            if not name and not reserved:
                if attempt > 1:
                    note = f"{owner.location}: note: {owner.what} becomes {identifiers[0]} in C: {reason}"
                    self.names.renamed.append(note)
                self.scope.take(identifiers, owner)
                return trial
            if attempt == 1:
                reason = f"{name} is taken by {other.what} ({other.location})" if name else \
                    f"{reserved[0]} is taken by C or C++"
            if option:
                self.problems.add(owner.location, f"{option} does not fit {owner.what}: {reason}; choose another")
                return own
            if name and other.file != owner.file:
                self.problems.add(owner.location, f"{owner.what} and {other.what} ({other.location}) are both {name} "
                                                  "in C; rename one of them")
                return own
        raise AssertionError("no free name")

    def _type(self, file: File, full_name: str, what: str, location: Location, outer: str,
              enum: Optional[Enum]) -> None:
        own = full_name.rpartition(".")[2]

        def identifiers(trial: str) -> List[str]:
            name = _c_type(outer, file.package, trial)
            return _enum_names(name, enum) if enum else _message_names(name)

        chosen = self._choose(own, _Owner(f"{what} {full_name}", file.name, location), identifiers)
        self.names.types[full_name] = _c_type(outer, file.package, chosen)

    def _message(self, file: File, message: Message, outer: str) -> None:
        self._type(file, message.full_name, "message", message.location, outer, None)
        own = self.names.types[message.full_name].own
        inner_outer = f"{outer}.{own}" if outer else own
        for enum in message.enums:
            self._type(file, enum.full_name, "enum", enum.location, inner_outer, enum)
        for inner in message.messages:
            self._message(file, inner, inner_outer)

    def _oneof(self, file: File, message: Message, oneof: str) -> None:
        name = self.names.types[message.full_name]
        members = [field.name for field in message.fields if field.oneof == oneof]

        def identifiers(trial: str) -> List[str]:
            prefix = f"{name.upper}__{upper(trial)}"
            return [f"{name.type}__{camel(trial)}Case", f"{prefix}__NOT_SET", f"_{prefix}__CASE_IS_INT_SIZE",
                    *dict.fromkeys(f"{prefix}_{upper(member)}" for member in members)]

        owner = _Owner(f"oneof {message.full_name}.{oneof}", file.name, message.location)
        self.names.oneofs[(message.full_name, oneof)] = self._choose(oneof, owner, identifiers)

    def _oneofs(self, file: File, message: Message) -> None:
        for oneof in message.oneofs:
            self._oneof(file, message, oneof)

    def _method(self, file: File, service: Service, method: Method, prefix: str) -> None:
        suffixes = UNARY_SUFFIXES if method.kind == "unary" else STREAM_SUFFIXES
        owner = _Owner(f"rpc {service.full_name}/{method.name}", file.name, method.location)

        def identifiers(trial: str) -> List[str]:
            return [f"{prefix}_{trial}{suffix}" for suffix in suffixes]

        if method.c_name:
            owner = _Owner(owner.what, owner.file, method.options_location)
        option = f"c_name {method.c_name}" if method.c_name else ""
        chosen = self._choose(method.c_name or lower(method.name), owner, identifiers, option)
        self.names.methods[(service.full_name, method.name)] = f"{prefix}_{chosen}"

    def _service(self, file: File, service: Service) -> None:
        owner = _Owner(f"service {service.full_name}", file.name, service.location)
        begin = "_".join(lower(part) for part in file.package.split(".") if part)
        own = lower(service.name)
        if service.c_prefix:
            owner = _Owner(owner.what, owner.file, service.options_location)
            begin, own = "", service.c_prefix
        elif f"{begin}_{own}_".lstrip("_" if not begin else "").startswith(C_RESERVED_PREFIXES):
            begin = f"x_{begin}" if begin else "x"

        def prefix(trial: str) -> str:
            return f"{begin}_{trial}" if begin else trial

        def identifiers(trial: str) -> List[str]:
            return [f"{prefix(trial)}_service", f"{prefix(trial)}_methods"]

        option = f"c_prefix {service.c_prefix}" if service.c_prefix else ""
        chosen = self._choose(own, owner, identifiers, option)
        self.names.services[service.full_name] = prefix(chosen)
        if self.scope.taken.get(identifiers(chosen)[0], owner).what == owner.what:  # else more of the same would follow
            for method in service.methods:
                self._method(file, service, method, prefix(chosen))

    def file(self, file: File) -> None:
        """Name everything in a file."""
        for message in file.messages:
            self._message(file, message, "")
        for enum in file.enums:
            self._type(file, enum.full_name, "enum", enum.location, "", enum)
        for message in file.all_messages():
            self._oneofs(file, message)
            for key, value in member_names(message, self.names, file.syntax).items():
                self.names.fields[(message.full_name, key)] = value
        for service in file.services:
            self._service(file, service)


def c_member(told: str) -> str:
    """The struct member that protoc-gen-c makes of a field's name."""
    name = told.lower()
    return f"{name}_" if name in PROTOBUF_C_KEYWORDS else name


def _companions(field: Field, member: str, syntax: str) -> List[str]:
    """What protobuf-c puts beside a field."""
    if field.repeated:
        return [f"n_{member}"]
    if syntax == "proto2" and not field.required and field.oneof is None and field.type not in ("message", "string"):
        return [f"has_{member}"]
    return []


def _told(field: Field) -> str:
    return f"{field.name}_" if field.name.lower() in (C_RESERVED | C_TYPEDEFS) - PROTOBUF_C_KEYWORDS else field.name


def member_names(message: Message, names: Names, syntax: str) -> Dict[str, str]:
    """Field -> the name that protoc-gen-c is told, so that all members of the struct differ."""
    fixed = {"base"} | {f"{lower(names.oneofs[(message.full_name, oneof)])}_case" for oneof in message.oneofs}
    natural = {field.name: c_member(_told(field)) for field in message.fields}
    beside: Set[str] = set()
    for field in message.fields:
        beside.update(_companions(field, natural[field.name], syntax))
    used: Set[str] = set(fixed)
    defaults: Set[str] = set()
    result: Dict[str, str] = {}
    for field in message.fields:
        told = _told(field)
        while True:
            member = c_member(told)
            companions = _companions(field, member, syntax)
            if not ({member, *companions} & used or member in beside or lower(told) in defaults):
                break
            told = f"{member}_" if member == told.lower() else member
        used.update([member, *companions])
        defaults.add(lower(told))
        result[field.name] = told
    return result


def _needed(schema: Schema) -> Set[str]:
    """The files whose types the written ones use, themselves and protobuf's own among them."""
    found: Set[str] = set()
    waiting = [*schema.emitted, *schema.requested]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(schema.files[name].type_imports)
    return found


def choose(schema: Schema, problems: Problems) -> Names:
    """The names of all that is written, and of all that it uses."""
    namer = _Namer(schema, problems)
    needed = _needed(schema)
    for name, file in schema.files.items():
        if name in needed:
            namer.file(file)
    return namer.names
