"""A `vllm serve` without vLLM: takes vLLM's own argument names and no others, refuses what vLLM refuses, answers /health
and (with the key of VLLM_API_KEY) /v1/models, and has a worker process of its own. Run as a program; `parser` is for the tests, too.

STAND_IN_RECORD: a file for what it was called with. STAND_IN_STUBBORN=1: SIGTERM does not end it. STAND_IN_SLOW: seconds
until it answers.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ARGUMENTS = Path(__file__).parent / "data" / "vllm_serve_arguments.json"
# vllm/config/lora.py, MaxLoRARanks
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_TYPES = {"--port": int, "--max-loras": int, "--max-cpu-loras": int, "--gpu-memory-utilization": float}


def parser() -> argparse.ArgumentParser:
    """The grammar of `vllm serve MODEL ...`."""
    names = json.loads(ARGUMENTS.read_text("utf-8"))
    made = argparse.ArgumentParser(prog="vllm serve", allow_abbrev=False)
    made.add_argument("model_tag")
    for name in names["flags"]:
        made.add_argument(name, action=argparse.BooleanOptionalAction)
    for name in names["values"]:
        choices = RANKS if name == "--max-lora-rank" else None
        made.add_argument(name, type=int if choices else _TYPES.get(name, str), choices=choices)
    for name in names["lists"]:
        made.add_argument(name, nargs="+")
    return made


def modules(given: list[str] | None) -> dict[str, str]:
    """--lora-modules as vllm/entrypoints/common/cli_args.py reads it: name=path where no comma is in it, else JSON."""
    found = {}
    for item in given or []:
        if "=" in item and "," not in item:
            name, path = item.split("=", 1)
        else:
            entry = json.loads(item)
            name, path = entry["name"], entry["path"]
        found[name] = path
    return found


def check(asked: argparse.Namespace) -> dict[str, str]:
    """Refuse as vLLM does: vllm/lora/peft_helper.py, model_executor/layers/quantization."""
    if asked.quantization == "bitsandbytes":
        raise ValueError("Unknown quantization method: bitsandbytes. Must be one of ['awq', 'gptq'].")
    if not (Path(asked.model_tag) / "config.json").is_file():
        raise ValueError(f"Invalid repository ID or local directory specified: {asked.model_tag!r}.")
    found = modules(asked.lora_modules)
    if found and not asked.enable_lora:
        raise ValueError("LoRA is not enabled")
    if (asked.max_cpu_loras or asked.max_loras or 1) < (asked.max_loras or 1):
        raise ValueError("max_cpu_loras must be >= max_loras")
    for path in found.values():
        config = json.loads((Path(path) / "adapter_config.json").read_text("utf-8"))
        if config.get("use_dora"):
            raise ValueError("vLLM does not yet support DoRA.")
        if config["r"] > (asked.max_lora_rank or 16):
            raise ValueError(f"LoRA rank {config['r']} is greater than max_lora_rank {asked.max_lora_rank}.")
    return found


def main() -> None:
    """Serve until a signal."""
    if sys.argv[1:2] != ["serve"]:
        sys.exit("usage: vllm serve [model_tag] [options]")
    asked = parser().parse_args(sys.argv[2:])
    stubborn = os.environ.get("STAND_IN_STUBBORN")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else signal.default_int_handler)
    print("\x1b[32mINFO\x1b[0m vLLM API server version 0.33.0")
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        print("INFO Loading weights ...")
        if record := os.environ.get("STAND_IN_RECORD"):
            facts = {"argv": sys.argv[1:], "environment": dict(os.environ), "worker": worker.pid, "pid": os.getpid()}
            Path(record + ".new").write_text(json.dumps(facts), "utf-8")
            Path(record + ".new").rename(record)
        serve(asked)
    except KeyboardInterrupt:
        print("INFO Shutting down.")
    finally:
        worker.kill()


def serve(asked: argparse.Namespace) -> None:
    """Answer until interrupted."""
    names = [*(asked.served_model_name or [asked.model_tag]), *check(asked)]
    time.sleep(float(os.environ.get("STAND_IN_SLOW", "0")))

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            listed = json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})
            body = {"/health": b"", "/v1/models": listed.encode()}.get(self.path)
            key = os.environ.get("VLLM_API_KEY")
            refused = key and self.path.startswith("/v1") and self.headers["Authorization"] != f"Bearer {key}"
            self.send_response(401 if refused else 404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

    server = ThreadingHTTPServer((asked.host or "", asked.port or 8000), Answers)
    print("INFO Application startup complete.", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
