"""Compares each measurement with the ones before it."""
import statistics
from collections import deque
from typing import Deque

from measure_pyproc import DetectorHandler, Measurement, Verdict, serve

WINDOW, ENOUGH, UNUSUAL = 50, 10, 5.0


class Detector(DetectorHandler):
    """Handles measure.Detector."""

    def __init__(self) -> None:
        self.before: Deque[float] = deque(maxlen=WINDOW)

    def judge(self, request: Measurement, context) -> Verdict:
        """Says how far off a measurement is; one that is too far off is not learned from."""
        deviation = 0.0
        if len(self.before) >= ENOUGH:
            spread = statistics.pstdev(self.before) or 1.0
            deviation = (request.value - statistics.fmean(self.before)) / spread
        unusual = abs(deviation) > UNUSUAL
        if not unusual:
            self.before.append(request.value)
        return Verdict(number=request.number, deviation=deviation, unusual=unusual)


if __name__ == "__main__":
    serve(Detector())
