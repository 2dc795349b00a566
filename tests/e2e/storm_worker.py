"""Answers with what tells a right answer from a wrong one, and from another worker's."""
import os
import sys
from typing import Iterator

from storm_pyproc import Answer, Question, SailorHandler, serve

from pyproc_worker import Context

EDITION = int(sys.argv[1]) if len(sys.argv) > 1 else 0


class Sailor(SailorHandler):
    """Handles storm.Sailor."""

    def hail(self, request: Question, context: Context) -> Answer:
        """What nobody else would answer to that question; a negative one is an error."""
        if request.number < 0:
            raise ValueError("a negative number")
        return Answer(number=request.number * 3 + 1, load=request.load[::-1], pid=os.getpid(),
                      index=context.worker_index, edition=EDITION)

    def watch(self, request: Question, context: Context) -> Iterator[Answer]:
        """Counts down."""
        for number in range(request.number, 0, -1):
            yield Answer(number=number)


if __name__ == "__main__":
    serve(Sailor())
