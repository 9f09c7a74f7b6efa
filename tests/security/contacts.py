"""A program of its own under an audit hook that cannot be taken off: whom an import and a run speak to.

Prints, as JSON, the addresses that were connected to or sent to, and the names that were looked up, for each phase.
Its arguments: the endpoint, a store, a folder to read, and storage options as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

contacted: dict[str, set[str]] = {}
phase = "import"


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.bind"):
        address = arguments[1]
        if isinstance(address, tuple) and (event != "socket.bind" or address[0] not in ("127.0.0.1", "::1")):
            contacted.setdefault(phase, set()).add(f"{address[0]}:{address[1]}")
        elif isinstance(address, str | bytes):  # a socket of this machine, by a path
            contacted.setdefault(phase, set()).add(f"unix {address!r}")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]
        port = arguments[1] if len(arguments) > 1 else ""
        contacted.setdefault(phase, set()).add(f"{host}:{port}")
    elif event in ("urllib.Request", "webbrowser.open", "smtplib.connect", "http.client.connect"):
        contacted.setdefault(phase, set()).add(f"{event} {arguments[:3]!r}"[:200])


def import_everything() -> int:
    """Each module of the package; how many there were."""
    import importlib
    import pkgutil

    import apwa_dask

    ends = ("__main__", "server_main")
    names = [found.name for found in pkgutil.walk_packages(apwa_dask.__path__, "apwa_dask.")]
    names = [name for name in names if not name.endswith(ends)]
    for name in names:
        importlib.import_module(name)
    return len(names)


def main(endpoint: str, store: str, folder: str, storage: str) -> None:
    global phase
    modules = import_everything()

    import apwa_dask as apwa

    phase = "looking"
    table = apwa.read(f"{folder}/*.parquet").map("How severe?", inputs="text", output={"severity": int})
    model = apwa.Model("gpt-4o-mini", base_url=endpoint, price=apwa.Price(1.0, 1.0))
    planned = table.plan()
    said = [repr(table.profile()), str(planned.explain(model=model)), str(planned.estimate(model=model))]

    phase = "run"
    options = json.loads(storage)
    run = table.run(model=model, store=store, storage_options=options, scheduler="threads", progress=False)
    rows = len(run.result())

    phase = "afterwards"
    said += [repr(run), str(run.costs()), str(run.failures), repr(run.row(0))]
    run.report(f"{folder}/report.html")
    run.export(f"{folder}/result.csv")
    told = {name: sorted(addresses) for name, addresses in contacted.items()}
    print(json.dumps({"modules": modules, "rows": rows, "said": len(said), "contacted": told}))


if __name__ == "__main__":
    sys.modules["uvloop"] = None  # type: ignore[assignment]  # it connects below Python, where no hook sees it
    sys.addaudithook(hook)
    main(*sys.argv[1:])
