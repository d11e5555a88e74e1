"""Plain data to YAML, in the block style people write."""
import json
import re

PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9._/-]*|[0-9]+(ms|s|m|h|k|g)")
WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def scalar(value):
    if value is True or value is False:
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, (int, float)):
        return str(value)
    text = str(value)
    if PLAIN.fullmatch(text) and text.lower() not in WORDS:
        return text
    return json.dumps(text, ensure_ascii=False)


def dump(value, indent=0):
    """The lines of a mapping or list."""
    pad = "  " * indent
    lines = []
    if isinstance(value, dict):
        for key, item in value.items():
            lines += entry(f"{pad}{scalar(key)}:", item, indent)
    else:
        for item in value:
            if isinstance(item, dict) and item:
                body = dump(item, indent + 1)
                body[0] = f"{pad}- {body[0].lstrip()}"
                lines += body
            else:
                lines += entry(f"{pad}-", item, indent)
    return lines


def entry(head, item, indent):
    if isinstance(item, (dict, list, tuple)) and item:
        return [head, *dump(item, indent + 1)]
    if isinstance(item, (dict, list, tuple)):
        return [f"{head} {'{}' if isinstance(item, dict) else '[]'}"]
    return [f"{head} {scalar(item)}"]


def text(value):
    return "\n".join(dump(value)) + "\n"
