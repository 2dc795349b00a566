"""A script that does not become a worker; its argument says how."""
import os
import sys
import time

MODE = sys.argv[1]

if MODE == "import":
    import a_module_that_nobody_has  # type: ignore # noqa: F401
elif MODE == "raise":
    raise RuntimeError("the model is missing")
elif MODE == "exit":
    print("giving up", flush=True)
    sys.exit(int(sys.argv[2]))
elif MODE == "kill":
    os._exit(9)
elif MODE == "end":
    print("nothing to serve")
elif MODE == "hang":
    time.sleep(600)
