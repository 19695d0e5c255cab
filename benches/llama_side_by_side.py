"""A language model on the CPU: skep's decoder beside llama.cpp, on the same file.

Usage: llama_side_by_side.py DECODER_RATES [--formats Q4_K_M Q8_0] [--threads 2] [--rounds 5]
                             [--models FOLDER] [--check] [--json]

DECODER_RATES is the built example `decoder_rates` of skep-decoder. The model has the shape of
Llama, 0.33 billion random parameters (24 layers, 1024 wide, 16 heads, 4 of keys and values, 2816
in the feed-forward layers, 32,000 tokens); it is written as F16 GGUF and quantized by llama.cpp
itself, once, into --models (a folder that is made and kept; without it a temporary one).

Both sides, a new process each, take turns, so that what else the machine does falls on both; the
figures are medians over the rounds, the ratios medians of each round's ratio. Measured are tokens
a second of reading a prompt of 512, of writing one text, and of writing eight texts in one batch,
in total, with 16-bit keys and values and the logits of what may follow. The last figure is what
writing one text reads of weights in a second, as a fraction of what plain loops on as many threads
read from memory in the same process. With --check the exit status is 1 if a ratio is below its
bound: 1.2 for one text, 1.0 for the prompt, 1.3 for eight texts, 0.75 for the fraction.

Needs the packages of requirements-llama.txt, which says how llama.cpp is built.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LAYERS, WIDTH, HIDDEN, HEADS, KV_HEADS, VOCABULARY = 24, 1024, 2816, 16, 4, 32_000
CONTEXT = 4096
# What llama.h calls them: LLAMA_FTYPE_MOSTLY_….
FORMATS = {"Q8_0": 7, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18}
BOUNDS = {"prefill": 1.0, "decode": 1.2, "streams": 1.3}
FRACTION = 0.75


def write_model(path: Path) -> None:
    import gguf
    import numpy

    random = numpy.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("no_vocab")

    def matrix(name: str, rows: int, columns: int) -> None:
        values = random.standard_normal((rows, columns), dtype=numpy.float32)
        writer.add_tensor(f"{name}.weight", (values * columns**-0.5).astype(numpy.float16))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", numpy.ones(WIDTH, dtype=numpy.float32))

    matrix("token_embd", VOCABULARY, WIDTH)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        norm(f"{block}attn_norm")
        matrix(f"{block}attn_q", WIDTH, WIDTH)
        matrix(f"{block}attn_k", WIDTH // HEADS * KV_HEADS, WIDTH)
        matrix(f"{block}attn_v", WIDTH // HEADS * KV_HEADS, WIDTH)
        matrix(f"{block}attn_output", WIDTH, WIDTH)
        norm(f"{block}ffn_norm")
        matrix(f"{block}ffn_gate", HIDDEN, WIDTH)
        matrix(f"{block}ffn_up", HIDDEN, WIDTH)
        matrix(f"{block}ffn_down", WIDTH, HIDDEN)
    norm("output_norm")
    matrix("output", VOCABULARY, WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def models(folder: Path, formats: list[str], threads: int) -> dict[str, Path]:
    """The model in each format; what is not there yet is made."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.gguf" for name in formats}
    missing = [name for name in formats if not paths[name].exists()]
    if not missing:
        return paths
    base = folder / "F16.gguf"
    if not base.exists():
        write_model(base)
    for name in missing:
        if name == "F16":
            continue
        # In a process of its own, as llama.cpp has a lot to say of it.
        code = f"""
import llama_cpp
options = llama_cpp.llama_model_quantize_default_params()
options.ftype, options.nthread = {FORMATS[name]}, {threads}
path = {str(paths[name]) + ".part"!r}.encode()
raise SystemExit(llama_cpp.llama_model_quantize({str(base)!r}.encode(), path, options))
"""
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        Path(f"{paths[name]}.part").rename(paths[name])
    return paths


def token_bytes(path: Path) -> int:
    """Bytes of weights that every token goes through: all but the embedding, of which it reads
    a row."""
    import gguf

    tensors = gguf.GGUFReader(path).tensors
    return sum(int(t.n_bytes) for t in tensors if t.name != "token_embd.weight")


class Llama:
    """llama.cpp through its C interface."""

    def __init__(self, path: str, threads: int, texts: int, length: int) -> None:
        import llama_cpp

        self.api = llama_cpp
        self.silent = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.silent, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = texts * length
        options.n_batch = options.n_ubatch = max(length, 512)
        options.n_seq_max = texts
        options.n_threads = options.n_threads_batch = threads
        options.no_perf = True
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.context:
            sys.exit("llama.cpp makes no context")
        self.batch = llama_cpp.llama_batch_init(max(texts * length, 512), 0, 1)
        self.texts = texts
        self.length = 0

    def clear(self) -> None:
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        self.length = 0

    def step(self, tokens: int) -> None:
        batch = self.batch
        batch.n_tokens = 0
        for text in range(self.texts):
            for n in range(tokens):
                i = batch.n_tokens
                batch.token[i] = (i * 7919 + self.length * 104_729) % VOCABULARY
                batch.pos[i] = self.length + n
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = text
                batch.logits[i] = n == tokens - 1
                batch.n_tokens += 1
        if self.api.llama_decode(self.context, batch) != 0:
            sys.exit("llama.cpp refuses a batch")
        self.api.llama_synchronize(self.context)
        logits = self.api.llama_get_logits(self.context)
        assert ctypes.cast(logits, ctypes.c_void_p).value
        self.length += tokens

    def seconds(self, tokens: int, steps: int) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            self.step(tokens)
        return time.perf_counter() - begin


def llama_rates(path: str, o: argparse.Namespace) -> dict:
    one = Llama(path, o.threads, 1, max(o.prompt, o.context + o.tokens))
    one.step(o.prompt)
    one.clear()
    prefill = one.seconds(o.prompt, 1)
    one.clear()
    one.step(o.context)
    decode = one.seconds(1, o.tokens)
    many = Llama(path, o.threads, o.streams, o.context + o.tokens)
    many.step(o.context)
    streams = many.seconds(1, o.tokens)
    return {
        "built_with": one.api.llama_print_system_info().decode().strip(),
        "prefill": o.prompt / prefill,
        "decode": o.tokens / decode,
        "streams": o.streams * o.tokens / streams,
    }


def processor() -> str:
    wanted = ["avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8"]
    name, flags = "unknown", set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        field, _, value = line.partition(":")
        if field.strip() == "model name":
            name = value.strip()
        if field.strip() == "flags":
            flags = set(value.split())
    return f"{name} ({' '.join(flag for flag in wanted if flag in flags)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--formats", nargs="+", default=["Q4_K_M", "Q8_0"], choices=FORMATS)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--llama", metavar="FILE", help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.llama:
        print(json.dumps(llama_rates(o.llama, o)))
        return

    sizes = ["threads", "prompt", "tokens", "streams", "context"]
    flags = [part for name in sizes for part in (f"--{name}", str(getattr(o, name)))]

    def run(*command: str) -> dict:
        done = subprocess.run([*command, *flags], check=True, capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[-1])

    result = {"processor": processor(), "threads": o.threads, "rounds": o.rounds, "formats": {}}
    with tempfile.TemporaryDirectory() as scratch:
        paths = models(o.models or Path(scratch), o.formats, o.threads)
        for name in o.formats:
            path = str(paths[name])
            rounds = []
            for _ in range(o.rounds):
                ours = run(o.binary, path)
                theirs = run(sys.executable, __file__, o.binary, "--llama", path)
                rounds.append((ours, theirs))
            result["built_with"] = rounds[0][1]["built_with"]
            result["isa"] = rounds[0][0]["isa"]
            weights = token_bytes(paths[name])
            row = {"weight_bytes": weights}
            for figure in BOUNDS:
                row[figure] = {
                    "skep": statistics.median(ours[figure] for ours, _ in rounds),
                    "llama.cpp": statistics.median(theirs[figure] for _, theirs in rounds),
                    "ratio": statistics.median(a[figure] / b[figure] for a, b in rounds),
                }
            memory = [ours["memory_bytes_per_s"] for ours, _ in rounds]
            row["memory_bytes_per_s"] = statistics.median(memory)
            row["fraction"] = statistics.median(
                ours["decode"] * weights / ours["memory_bytes_per_s"] for ours, _ in rounds
            )
            result["formats"][name] = row

    if o.json:
        print(json.dumps(result))
    else:
        print(f"{result['processor']}, {o.threads} threads, median of {o.rounds} rounds")
        print(f"skep: {result['isa']}; llama.cpp: {result['built_with']}\n")
        print(f"{'tokens/s':24}{'skep':>10}{'llama.cpp':>12}{'ratio':>8}")
        names = {
            "prefill": f"prompt of {o.prompt}",
            "decode": "one text",
            "streams": f"{o.streams} texts",
        }
        for name, row in result["formats"].items():
            for figure, what in names.items():
                ours, theirs, ratio = row[figure].values()
                print(f"{name + ', ' + what:24}{ours:10.1f}{theirs:12.1f}{ratio:8.2f}")
            print(
                f"{name + ', memory':24}{row['fraction']:10.0%} of "
                f"{row['memory_bytes_per_s'] / 1e9:.1f} GB/s"
            )
    short = any(
        row["fraction"] < FRACTION or any(row[f]["ratio"] < bound for f, bound in BOUNDS.items())
        for row in result["formats"].values()
    )
    sys.exit(1 if o.check and short else 0)


if __name__ == "__main__":
    main()
