#!/usr/bin/python3
"""Writes a tiny language model with random weights, as GGUF, for a real llama-server to load. Standard library only.

usage: make_gguf.py OUT.gguf [--width 64] [--layers 2] [--context 4096] [--filler 0] [--seed 7]

What it says is noise, but printable: its tokens are the printable ASCII characters, one each, and a newline. So a text has as many
tokens as characters, and an answer that comes back in the next prompt is cut into the very tokens that made it: what the server then
calls cached is exact. --filler adds that many tokens that nothing uses: they cost time when the server loads the file.
"""
import argparse
import array
import random
import struct

MAGIC, VERSION, ALIGN = b"GGUF", 3, 32
U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5  # types of values
NORMAL, UNKNOWN, CONTROL, UNUSED = 1, 2, 3, 5          # types of tokens
HEADS, HEADS_KV = 4, 2
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


PACK = {U32: lambda v: struct.pack("<I", v), I32: lambda v: struct.pack("<i", v), F32: lambda v: struct.pack("<f", v),
        BOOL: lambda v: struct.pack("<?", v), STRING: text}


def pair(key, kind, value, of=None):
    """One key with its value; `of` is the type of an array's elements."""
    head = text(key) + struct.pack("<I", kind)
    if kind == ARRAY:
        return head + struct.pack("<IQ", of, len(value)) + b"".join(map(PACK[of], value))
    return head + PACK[kind](value)


def vocabulary(filler):
    """[(token, type)]: a blank is U+2581, as SentencePiece writes it."""
    printable = [chr(c) if c != 32 else "\u2581" for c in range(32, 127)]
    return [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), *((c, NORMAL) for c in [*printable, "\n"]), *((f"<filler {i}>", UNUSED) for i in range(filler))]


def metadata(args, vocab):
    llama = {"block_count": args.layers, "context_length": args.context, "embedding_length": args.width, "feed_forward_length": 2 * args.width,
             "attention.head_count": HEADS, "attention.head_count_kv": HEADS_KV, "rope.dimension_count": args.width // HEADS, "vocab_size": len(vocab)}
    return [
        pair("general.architecture", STRING, "llama"), pair("general.name", STRING, "noise"), pair("general.file_type", U32, 0),
        *(pair(f"llama.{key}", U32, value) for key, value in llama.items()),
        pair("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
        pair("tokenizer.ggml.model", STRING, "llama"), pair("tokenizer.ggml.pre", STRING, "default"),
        pair("tokenizer.ggml.tokens", ARRAY, [t for t, _ in vocab], STRING), pair("tokenizer.ggml.token_type", ARRAY, [k for _, k in vocab], I32),
        pair("tokenizer.ggml.scores", ARRAY, [-float(i) for i in range(len(vocab))], F32),
        pair("tokenizer.ggml.unknown_token_id", U32, 0), pair("tokenizer.ggml.bos_token_id", U32, 1), pair("tokenizer.ggml.eos_token_id", U32, 2),
        pair("tokenizer.ggml.add_bos_token", BOOL, True), pair("tokenizer.ggml.add_eos_token", BOOL, False), pair("tokenizer.ggml.add_space_prefix", BOOL, False),
        pair("tokenizer.chat_template", STRING, TEMPLATE),
    ]


class Noise:
    """Normal numbers, by the million: one stretch of real ones, begun at another place each time."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.stretch = array.array("f", (self.random.gauss(0, 1) for _ in range(1 << 15)))

    def matrix(self, rows, columns, deviation):
        start = self.random.randrange(len(self.stretch))
        stretch = array.array("f", (x * deviation for x in self.stretch[start:] + self.stretch[:start]))
        n = rows * columns
        return (stretch * (n // len(stretch) + 1))[:n]


def tensors(args, vocab):
    """(name, shape as ggml counts it, numbers). Column 0 of the residual stream is a constant that no layer touches: through it the
    output favours what is printable and shuns the rest."""
    width, hidden, kv = args.width, 2 * args.width, args.width // HEADS * HEADS_KV
    noise = Noise(args.seed)
    tokens, output = noise.matrix(len(vocab), width, 1.0), noise.matrix(len(vocab), width, 0.3)
    for i, (_, kind) in enumerate(vocab):
        tokens[i * width] = 4.0
        output[i * width] = 2.0 if kind == NORMAL else -40.0
    ones = array.array("f", [1.0]) * width
    yield "token_embd.weight", (width, len(vocab)), tokens
    yield "output_norm.weight", (width,), ones
    yield "output.weight", (width, len(vocab)), output
    shapes = {"attn_q": (width, width), "attn_k": (width, kv), "attn_v": (width, kv), "attn_output": (width, width),
              "ffn_gate": (width, hidden), "ffn_up": (width, hidden), "ffn_down": (hidden, width)}
    for layer in range(args.layers):
        yield f"blk.{layer}.attn_norm.weight", (width,), ones
        yield f"blk.{layer}.ffn_norm.weight", (width,), ones
        for name, (columns, rows) in shapes.items():
            numbers = noise.matrix(rows, columns, columns ** -0.5)
            if name in ("attn_output", "ffn_down"):
                numbers[:columns] = array.array("f", bytes(4 * columns))
            yield f"blk.{layer}.{name}.weight", (columns, rows), numbers


def padded(raw):
    return raw + bytes(-len(raw) % ALIGN)


def write(path, args):
    vocab = vocabulary(args.filler)
    pairs, infos, data, offset = metadata(args, vocab), [], [], 0
    for name, shape, numbers in tensors(args, vocab):
        raw = padded(numbers.tobytes())
        infos.append(text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in shape) + struct.pack("<IQ", 0, offset))
        data.append(raw)
        offset += len(raw)
    head = MAGIC + struct.pack("<IQQ", VERSION, len(infos), len(pairs)) + b"".join(pairs) + b"".join(infos)
    with open(path, "wb") as f:
        f.write(padded(head))
        f.writelines(data)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    for name, default in (("width", 64), ("layers", 2), ("context", 4096), ("filler", 0), ("seed", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    if options.width % (2 * HEADS):
        parser.error(f"--width is a multiple of {2 * HEADS}")
    write(options.out, options)
