#!/usr/bin/python3
"""Prints the text of a chat stream (SSE on stdin) as it arrives; exit 1 if the stream did not end well."""
import json
import sys

done = False
for line in sys.stdin:
    if not line.startswith("data: "):
        continue
    data = line[6:].strip()
    if data == "[DONE]":
        done = True
        break
    event = json.loads(data)
    if "error" in event:
        print("error:", event["error"]["message"])
        break
    for choice in event.get("choices", []):
        sys.stdout.write(choice.get("delta", {}).get("content") or "")
        sys.stdout.flush()
print()
sys.exit(0 if done else 1)
