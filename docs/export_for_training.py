"""Exports conversations as training data: python docs/export_for_training.py FILE [SESSION_ID ...]; without ids all."""

import os
import sys
from pathlib import Path

from app.client.client import Client

if __name__ == "__main__":
    url = os.environ.get("AIRLAB_URL", "http://127.0.0.1:8080")
    with Client(url, os.environ.get("AIRLAB_API_KEY")) as airlab:
        count = airlab.export_for_finetuning(Path(sys.argv[1]), sys.argv[2:])
    print(f"{sys.argv[1]} holds {count} conversations")
