"""The schema as the generator sees it: plain frozen data, made by `load`, read by everything after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, FrozenSet, Iterator, Optional, Tuple, Union

OPTIONS_FILE = "pyproc/options.proto"

# Shipped compiled in libpyproc, and in Python's protobuf.
WELL_KNOWN_FILES: Tuple[str, ...] = tuple(
    f"google/protobuf/{name}.proto"
    for name in (
        "any", "api", "descriptor", "duration", "empty", "field_mask", "source_context", "struct", "timestamp", "type",
        "wrappers",
    )
)


@dataclass(frozen=True)
class Location:
    """A place in a schema file; line and column count from 1."""

    file: str
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Field:
    """A field of a message. `type` is a scalar's name, `enum`, `group` or `message`."""

    name: str
    json_name: str
    number: int
    type: str
    type_name: str  # full name of the message or enum, without a leading dot; else empty
    repeated: bool
    required: bool
    has_default: bool
    default: str
    oneof: Optional[str]  # the oneof's name, a proto3 optional's own among them
    proto3_optional: bool
    location: Location


@dataclass(frozen=True)
class EnumValue:
    """A value of an enum."""

    name: str
    number: int


@dataclass(frozen=True)
class Enum:
    """An enum, at top level or nested."""

    full_name: str
    values: Tuple[EnumValue, ...]
    location: Location

    @property
    def name(self) -> str:
        """Its own name, without package and outer messages."""
        return self.full_name.rpartition(".")[2]


@dataclass(frozen=True)
class Message:
    """A message, at top level or nested, the entry of a map among them."""

    full_name: str
    fields: Tuple[Field, ...]  # as declared
    oneofs: Tuple[str, ...]
    messages: Tuple["Message", ...]
    enums: Tuple[Enum, ...]
    map_entry: bool
    message_set: bool
    location: Location

    @property
    def name(self) -> str:
        """Its own name, without package and outer messages."""
        return self.full_name.rpartition(".")[2]

    def walk(self) -> Iterator["Message"]:
        """The message and all that are nested in it, outer first."""
        yield self
        for inner in self.messages:
            yield from inner.walk()


@dataclass(frozen=True)
class Retry:
    """The retry policy of an rpc, with its defaults filled in."""

    max_attempts: int
    initial_backoff_ms: int
    max_backoff_ms: int
    backoff_multiplier: float
    codes: Tuple[str, ...]  # names as written
    location: Location


@dataclass(frozen=True)
class Method:
    """One rpc."""

    name: str
    request: str  # full names
    reply: str
    kind: str  # unary, server_stream, client_stream or bidi
    timeout_ms: int
    idempotent: bool
    retry: Optional[Retry]
    c_name: str
    comment: str
    location: Location
    options_location: Location

    @property
    def client_streams(self) -> bool:
        """Whether requests are a stream."""
        return self.kind in ("client_stream", "bidi")

    @property
    def server_streams(self) -> bool:
        """Whether replies are a stream."""
        return self.kind in ("server_stream", "bidi")


@dataclass(frozen=True)
class Service:
    """One service."""

    full_name: str
    methods: Tuple[Method, ...]
    c_prefix: str
    comment: str
    location: Location
    options_location: Location

    @property
    def name(self) -> str:
        """Its own name, without the package."""
        return self.full_name.rpartition(".")[2]


@dataclass(frozen=True)
class File:
    """One schema file."""

    name: str  # as imports spell it
    path: str  # as a person would find it
    package: str
    syntax: str
    messages: Tuple[Message, ...]  # top level
    enums: Tuple[Enum, ...]  # top level
    services: Tuple[Service, ...]
    imports: Tuple[str, ...]
    type_imports: Tuple[str, ...]  # files that define what this one's messages and services use, sorted

    def all_messages(self) -> Iterator[Message]:
        """Every message of the file, outer before inner."""
        for message in self.messages:
            yield from message.walk()

    def all_enums(self) -> Iterator[Enum]:
        """Every enum of the file."""
        yield from self.enums
        for message in self.all_messages():
            yield from message.enums

    @property
    def location(self) -> Location:
        """The file's beginning."""
        return Location(self.path)


@dataclass(frozen=True)
class Schema:
    """All files of a run."""

    files: Dict[str, File]  # imports before importers
    requested: Tuple[str, ...]  # named by the user
    emitted: Tuple[str, ...]  # whose code is written: those and what their messages need, imports first
    types: Dict[str, Union[Message, Enum]]
    homes: Dict[str, str]  # full name of a type -> name of its file
    well_known: FrozenSet[str] = frozenset(WELL_KNOWN_FILES)

    def message(self, full_name: str) -> Message:
        """The message of that name, which must exist."""
        found = self.types[full_name]
        assert isinstance(found, Message)
        return found

    def is_map(self, field: Field) -> bool:
        """Whether the field is a map."""
        return field.type == "message" and self.message(field.type_name).map_entry
