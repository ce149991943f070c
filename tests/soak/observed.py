"""``gateway serve`` with a counter of its objects: for each line on standard input it prints one, JSON, on standard output.

``blocks`` is how many pieces of memory Python's allocator has given out, ``objects`` the number of live containers by type, of which
those that were made before the application started are left out.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
from collections import Counter

from gateway.cli import main

MOST = 40  # types


def _answer_lines() -> None:
    for _ in sys.stdin:
        gc.collect()
        counts = Counter(type(each).__qualname__ for each in gc.get_objects())
        print(json.dumps({"blocks": sys.getallocatedblocks(), "objects": dict(counts.most_common(MOST))}), flush=True)


if __name__ == "__main__":
    threading.Thread(target=_answer_lines, daemon=True).start()
    main()
