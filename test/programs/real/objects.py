# SPDX-License-Identifier: MIT
"""Dictionaries, strings and bytes; answers to each line with a hash of all, having changed a part."""

import hashlib
import sys

data = {i: {"name": f"item {i}", "text": "x" * (i % 200), "bytes": bytes([i % 251]) * (20 + i % 2000)}
        for i in range(30000)}


def digest():
    h = hashlib.sha256()
    for i, item in data.items():
        h.update(f"{i}{item['name']}{item['text']}".encode() + item["bytes"])
    return h.hexdigest()


print(digest(), flush=True)
for turn, _ in zip(range(3), sys.stdin):
    for i in range(turn, len(data), 7):
        data[i] = {"name": f"changed {turn}", "text": "", "bytes": bytes(i % 500)}
    print(digest(), flush=True)
