"""tests/conformance/worker.py with another schema or handshake than the host's; the argument says how."""
import importlib.util
import json
import os
import sys
from typing import Any, Callable, Dict

PATH = os.path.join(os.environ["PYPROC_TEST_SOURCE"], "tests", "conformance", "worker.py")
SPEC = importlib.util.spec_from_file_location("conformance_worker", PATH)
assert SPEC is not None and SPEC.loader is not None
worker: Any = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(worker)
original_hello = worker.hello
REQUEST = "quickstart.PredictRequest"


def edited(edit: Callable[[Dict[str, Any]], Any]) -> None:
    """Changes the hello before it is sent."""
    def hello() -> bytes:
        content = json.loads(original_hello())
        edit(content)
        return json.dumps(content).encode()
    worker.hello = hello


MUTATIONS: Dict[str, Callable[[], Any]] = {
    "number": lambda: worker.SHAPES.update({REQUEST: [(2, "one", "double", "value")]}),
    "type": lambda: worker.SHAPES.update({REQUEST: [(1, "one", "float", "value")]}),
    "label": lambda: worker.SHAPES.update({REQUEST: [(1, "many", "double", "value")]}),
    "added": lambda: worker.SHAPES.update({REQUEST: [(1, "one", "double", "value"), (2, "one", "string", "unit")]}),
    "removed": lambda: worker.SHAPES.update({REQUEST: []}),
    "kind": lambda: edited(lambda hello: hello["methods"][0].update(kind="server_stream")),
    "absent": lambda: [edited(lambda hello: hello["methods"].pop(0)), worker.METHODS.pop(0)],
    "newer": lambda: edited(lambda hello: hello.update(version=7, oldest=5)),
    "range": lambda: edited(lambda hello: hello.update(version=3, oldest=1)),
    "no_version": lambda: edited(lambda hello: hello.pop("version")),
    "no_methods": lambda: edited(lambda hello: hello.pop("methods")),
    "text_version": lambda: edited(lambda hello: hello.update(version="1")),
    "threads": lambda: edited(lambda hello: hello.update(threads=-5)),
    "few_members": lambda: edited(lambda hello: [hello.pop(name) for name in ("oldest", "pid", "features", "threads")]),
    "bad_json": lambda: setattr(worker, "hello", lambda: b'{"version": 1,'),
    "none": lambda: None,
}

if __name__ == "__main__":
    MUTATIONS[sys.argv[1]]()
    worker.main()
