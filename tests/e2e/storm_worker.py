"""Answers with what tells a right answer from a wrong one, and from another worker's."""
import os
import sys

from storm_pyproc import Answer, Question, SailorHandler, serve

from pyproc_worker import Context

EDITION = int(sys.argv[1]) if len(sys.argv) > 1 else 0


class Sailor(SailorHandler):
    """Handles storm.Sailor."""

    def hail(self, request: Question, context: Context) -> Answer:
        """What nobody else would answer to that question."""
        return Answer(number=request.number * 3 + 1, load=request.load[::-1], pid=os.getpid(),
                      index=context.worker_index, edition=EDITION)


if __name__ == "__main__":
    serve(Sailor())
