#!/usr/bin/env python3
"""The scripted stand-in for llama-server: takes its place as a program, for faults a real one will not show on request.

Standard library only. What it can do stands in ``fake_llama/script.py``; what a test can ask it, in
``fake_llama/server.py``; how a test gets one, in ``support/fake.py``.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Started by path, from anywhere: without this only the folder of this file could be imported from.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from tests.fake_llama.__main__ import main

    sys.exit(main(sys.argv[1:]))
