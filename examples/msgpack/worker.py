"""Summarises readings of sensors; its requests and replies are in MessagePack."""
from typing import Any, Dict, List

import msgpack_codec
from pyproc_worker import expose
from telemetry_pyproc import ArchiveHandler, Batch, Summary, serve


class Archive(ArchiveHandler):
    """The typed side."""

    def summarise(self, request: Batch, context: Any) -> Summary:
        """Statistics of the numbers, by sensor."""
        summary = Summary(station=request.station, tags=request.tags)
        numbers: Dict[str, List[float]] = {}
        for reading in request.readings:
            if reading.quality not in summary.qualities:
                summary.qualities.append(reading.quality)
            if reading.WhichOneof("value") == "raw":
                summary.raw += reading.raw
            elif not request.HasField("above") or reading.number > request.above:
                numbers.setdefault(reading.sensor, []).append(reading.number)
        for sensor, values in numbers.items():
            statistics = summary.by_sensor[sensor]
            statistics.count = len(values)
            statistics.mean = sum(values) / len(values)
            statistics.largest = max(values)
        return summary


@expose
def describe(request: Dict[str, Any]) -> Dict[str, Any]:
    """Repeats what it is told about a station."""
    return {"station": request["station"], "sensors": sorted(request["sensors"]), "height": request["height"] * 2}


if __name__ == "__main__":
    msgpack_codec.register()
    serve(Archive())
