"""A run over one card and over several: speed beside transformers' Trainer, what the cards' talk costs, stop, crash, resume.

    python tests/bench/cards.py --model DIR --out FOLDER
    python tests/bench/cards.py --model DIR --out FOLDER --cards 1 2 4 --pieces ours wire --limit 240
    python tests/bench/cards.py --table FOLDER

Each piece is a launch of its own with a limit in seconds. FOLDER gets cards.jsonl (a line a measurement), cards.json (all of
it, with the speed-ups) and a log a piece; the table is printed at the end. Weights may be random: speed does not depend
on their values.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from core import models  # noqa: E402

Record = dict[str, object]
PIECES = ("ours", "wire", "peer", "stop", "crash", "spread")
STARTER = ROOT / "presets" / "starter" / "identity-50.jsonl"


class Bench:
    """What was asked, and where the results go."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.folder = asked, asked.out.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lines = self.folder / "cards.jsonl"
        self.begun = time.monotonic()

    def left(self) -> float:
        """Seconds for the next piece."""
        return min(self.asked.limit, self.asked.budget - (time.monotonic() - self.begun))

    def tell(self, record: Mapping[str, object]) -> None:
        """Write a line of our own."""
        with self.lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def launch(self, name: str, cards: int, command: Sequence[str]) -> None:
        """Run a script on `cards` cards within the limit; how it went is a line, too."""
        limit, begun = self.left(), time.monotonic()
        if limit < 5:
            self.tell({"what": "piece", "piece": name, "cards": cards, "ended": "no time left"})
            return
        print(f"== {name}, {cards} card(s), at most {limit:.0f} s", flush=True)
        with (self.folder / f"{name}-{cards}.log").open("w") as log:
            process = started(cards, command, log.fileno())
            try:
                ended: object = process.wait(limit)
            except subprocess.TimeoutExpired:
                ended = "out of time"
                end(process)
        seconds = round(time.monotonic() - begun, 1)
        self.tell({"what": "piece", "piece": name, "cards": cards, "ended": ended, "seconds": seconds})
        print(f"   ended with {ended} after {seconds} s", flush=True)
        if ended:
            print((self.folder / f"{name}-{cards}.log").read_text(errors="replace")[-1500:], flush=True)


def started(cards: int, command: Sequence[str], output: int, spread: bool = False) -> subprocess.Popen[bytes]:
    """The script as a process: by accelerate's launcher for more than one card."""
    how = ["--use_fsdp", "--fsdp_version", "2"] if spread else ["--multi_gpu"]
    launcher = [
        "-m", "accelerate.commands.launch", *how, "--num_processes", str(cards), "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
    ] if cards > 1 else []  # fmt: skip
    shown = {} if cards > 1 else {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), **shown}
    for name, value in (("TOKENIZERS_PARALLELISM", "false"), ("HF_HUB_OFFLINE", "1")):
        environment.setdefault(name, value)
    return subprocess.Popen(
        [sys.executable, *launcher, *command], env=environment, stdout=output, stderr=output, start_new_session=True
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """In order if it will, else at once."""
    process.terminate()
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def speeds(bench: Bench, cards: int, piece: str) -> None:
    """The jobs through OneCard, or the Trainer."""
    asked, model = bench.asked, str(models.inspect(bench.asked.model).folder)
    common = ["--model", model, "--out", str(bench.lines), "--workloads", *asked.workloads]
    rows = str(bench.folder / "rows")
    if piece == "peer":
        command = [str(HERE / "cards_peer.py"), *common, "--rows", rows, "--steps", str(asked.peer_steps)]
    else:
        sizes = ["--length", str(asked.length), "--mixed-rows", str(asked.mixed_rows), "--repeat", str(asked.repeat)]
        steps = ["--steps", str(asked.steps), "--rows-out", rows, "--set", *asked.set]
        command = [str(HERE / "cards_work.py"), "--piece", piece, *common, *sizes, *steps]
    bench.launch(piece, cards, command)


def ended_early(bench: Bench, cards: int, piece: str) -> None:
    """A run on all cards that is stopped, or loses a process, and is then gone on with; what came of both."""
    folder = bench.folder / f"run-{piece}"
    command = [str(HERE / "cards_work.py"), "train"]
    rows = [str(STARTER)]
    job = job_of(bench, folder, rows, 400)
    limit = time.monotonic() + bench.left()
    print(f"== {piece}, {cards} card(s)", flush=True)
    record: Record = {"what": piece, "cards": cards}
    with (bench.folder / f"{piece}-{cards}.log").open("w") as log:
        process = started(cards, [*command, *job], log.fileno())
        until(lambda: step_of(folder) >= 8, process, limit)
        at, before = time.monotonic(), step_of(folder)
        leader = int((folder / ".lock").read_text()) if (folder / ".lock").is_file() else 0
        if piece == "stop":
            os.kill(leader, signal.SIGTERM)
        else:
            for other in members(process.pid, leader):
                os.kill(other, signal.SIGKILL)
        until(lambda: last(folder) in ("stopped", "failed", "finished"), process, limit)
        told = round(time.monotonic() - at, 2)
        if process.poll() is None:
            until(lambda: process.poll() is not None, process, min(limit, time.monotonic() + 60))
        record |= {"at_step": before, "event": last(folder), "event_after_s": told,
                   "all_ended_after_s": round(time.monotonic() - at, 2), "exit": process.poll()}  # fmt: skip
        end(process)
        again = cards if piece == "stop" else 1
        process = started(again, [*command, "--resume", str(folder)], log.fileno())
        resumed = len(events(folder))
        until(lambda: len(steps_since(folder, resumed)) >= 5, process, limit)
        gone_on = [event.get("step") for event in events(folder)[resumed:] if event["type"] == "resumed"]
        after = len(steps_since(folder, resumed))
        record |= {"resumed_on": again, "resumed_after_step": gone_on, "steps_after": after}
        end(process)
    print(f"   {json.dumps(record)}", flush=True)
    bench.tell(record)


def job_of(bench: Bench, folder: Path, rows: Sequence[str], steps: int) -> list[str]:
    """The command line of a bare job that saves often."""
    return [
        "--model", bench.asked.model, "--dataset", *rows, "--output_dir", str(folder), "--max_steps", str(steps),
        "--probe_steps", "0", "--rehearsal", "off", "--stop_when_taken", "false", "--save_steps", "5", "--prove", "false",
        "--max_length", str(max(512, bench.asked.length)),
        "--model_name", "小禾", "Xiaohe", "--model_author", "青禾智能", "Qinghe AI",
    ]  # fmt: skip


def spread(bench: Bench, cards: int) -> None:
    """Long rows with the base whole on every card, fast and plain, and spread over them, in 16 bits and in 4."""
    rows = bench.folder / "long.jsonl"
    write_long_rows(bench, rows)
    for quant in ("none", "bnb"):
        if quant == "bnb" and importlib.util.find_spec("bitsandbytes") is None:
            bench.tell({"what": "spread", "base": quant, "ended": "no bitsandbytes here"})
            continue
        ways = [(False, "whole"), (False, "plain"), (True, "spread")]
        for over, how in ways if quant == "none" else ways[::2]:
            name = f"{how}-{quant}"
            folder, limit = bench.folder / f"run-{name}", bench.left()
            command = [
                str(HERE / "cards_work.py"),
                "train",
                *job_of(bench, folder, [str(rows)], 6),
                "--quant_method",
                quant,
            ]
            command += ["--torch_dtype", "bfloat16"] if quant == "bnb" else []
            command += ["--gradient_checkpointing", "on"]  # all of them in little memory
            # Dropout of nothing: the fast path leaves it to the plain one, which is what a spread base has.
            command += ["--lora_dropout", "1e-9"] if how == "plain" else []
            print(f"== {name}, {cards} card(s), at most {limit:.0f} s", flush=True)
            begun = time.monotonic()
            with (bench.folder / f"{name}-{cards}.log").open("w") as log:
                process = started(cards, command, log.fileno(), spread=over)
                until(lambda process=process: process.poll() is not None, process, begun + limit)  # type: ignore[misc]
                end(process)
            steps = steps_since(folder, 0)
            record = {"what": "spread", "how": how, "base": quant, "cards": cards, "exit": process.poll(),
                      "seconds": round(time.monotonic() - begun, 1), "last": last(folder),
                      "step_s": [round(float(str(e["seconds"])), 3) for e in steps],
                      "tok_s": [round(float(str(e["tokens_per_second"]))) for e in steps],
                      "peak_gib": round(max((float(str(e["peak_memory_bytes"])) for e in steps), default=0) / 2**30, 2),
                      "losses": [e["loss"] for e in steps], "norms": [e.get("grad_norm") for e in steps]}  # fmt: skip
            print(f"   {json.dumps(record)}", flush=True)
            bench.tell(record)


def write_long_rows(bench: Bench, path: Path) -> None:
    """Rows of exactly `--length` tokens each."""
    from workloads import exact_rows

    from core import dataset
    from core.base_parts import tokenizer_of
    from core.config import TrainConfig
    from core.encode import encoder_for

    encoder = encoder_for(tokenizer_of(models.inspect(bench.asked.model).folder))
    rows = exact_rows(encoder, TrainConfig().system, 48, bench.asked.length)
    path.write_text(
        "".join(json.dumps(dataset.to_json(row), ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


def until(done: Callable[[], bool], process: subprocess.Popen[bytes], limit: float) -> None:
    """Wait for it, the end of the process, or the limit."""
    while not done() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)


def events(folder: Path) -> list[Record]:
    """The run's events so far."""
    path = folder / "events.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line.strip()]


def step_of(folder: Path) -> int:
    """The newest step that was told."""
    return max((int(str(event["step"])) for event in events(folder) if event["type"] == "step"), default=0)


def steps_since(folder: Path, seen: int) -> list[Record]:
    """Steps among the events after the first `seen`."""
    return [event for event in events(folder)[seen:] if event["type"] == "step"]


def last(folder: Path) -> str:
    """The newest event's type."""
    return str((events(folder) or [{"type": ""}])[-1]["type"])


def members(launcher: int, leader: int) -> list[int]:
    """The processes that the launcher started, but for the leader."""
    import psutil

    return [child.pid for child in psutil.Process(launcher).children() if child.pid != leader]


def summary(lines: Sequence[Record]) -> Record:
    """Everything, and how much faster each system is on more cards."""
    best: dict[tuple[str, str, int], Record] = {}
    for line in lines:
        if (
            line.get("what") == "cards" and "steady_tok_s" in line
        ):  # the last repeat: kernels and graphs are made by then
            best[str(line["system"]), str(line["workload"]), int(str(line["cards"]))] = line
    gains = []
    for (system, workload, cards), line in best.items():
        one = best.get((system, workload, 1))
        speed = float(str(line["steady_tok_s"]))
        gain = round(speed / float(str(one["steady_tok_s"])), 3) if one and cards > 1 else None
        peak = line["peak"]["alloc_gib"] if isinstance(line.get("peak"), dict) else None
        gains.append({"system": system, "workload": workload, "cards": cards, "tok_s": speed, "steps": line["n_steps"],
                      "step_ms": round(1e3 * float(str(line["steady_step_s"])), 2), "loop_s": line["train_loop_s"],
                      "peak_gib": peak, "speed_up": gain})  # fmt: skip
    curves = []
    for system, workload, cards in best:
        one = best.get((system, workload, 1))
        if one and cards > 1 and system == "OneCard":
            pairs = list(zip(one["losses"], best[system, workload, cards]["losses"], strict=False))  # type: ignore[call-overload]
            most = max((abs(a - b) / max(1e-9, abs(a)) for a, b in pairs), default=None)
            curves.append(
                {"workload": workload, "cards": cards, "steps": len(pairs), "largest_relative_difference": most}
            )
    return {"speeds": gains, "loss_curves": curves, "rest": [line for line in lines if line.get("what") != "cards"]}


def show(found: Record) -> str:
    """The summary as Markdown."""
    names = ("workload", "system", "cards", "tokens/s", "step, ms", "loop, s (steps)", "peak, GiB a card", "speed-up")
    head = f"| {' | '.join(names)} |\n|{'---|' * len(names)}"
    rows = [
        f"| {g['workload']} | {g['system']} | {g['cards']} | {g['tok_s']:,.0f} | {g['step_ms']:,.1f} | "
        f"{g['loop_s']} ({g['steps']}) | {g['peak_gib']} | {g['speed_up'] or ''} |"
        for g in sorted(found["speeds"], key=lambda g: (g["workload"], g["system"], g["cards"]))  # type: ignore[index, attr-defined]
    ]
    rest = [json.dumps(line, ensure_ascii=False) for line in (*found["loss_curves"], *found["rest"])]  # type: ignore[misc]
    return "\n".join([head, *rows, "", *rest])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--table", type=Path, metavar="FOLDER", help="only print the table of an earlier call")
    add("--model", default="pocket")
    add("--out", type=Path, default=Path("cards"))
    add("--cards", type=int, nargs="+", default=[1, 2])
    add("--pieces", nargs="+", default=list(PIECES), choices=PIECES)
    add("--workloads", nargs="+", default=["headline", "long", "mixed"])
    add("--length", type=int, default=2048)
    add("--mixed-rows", type=int, default=400)
    add("--steps", type=int, default=0, help="steps of OneCard's jobs; 0: the workload's own number")
    add("--repeat", type=int, default=2)
    add("--peer-steps", type=int, default=6)
    add("--set", nargs="*", default=[], metavar="NAME=VALUE")
    add("--limit", type=float, default=150, help="seconds of one piece at most")
    add("--budget", type=float, default=570, help="seconds of all pieces at most")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> Record:
    """Carry out what the command line asks; returns the summary and prints it."""
    asked = parse(arguments)
    if asked.table:
        asked.out = asked.table
    bench = Bench(asked)
    if not asked.table:
        bench.tell({"what": "machine", **machine()})
        for piece in asked.pieces:
            for cards in asked.cards:
                if piece in ("ours", "peer"):
                    speeds(bench, cards, piece)
                elif piece == "spread" and cards > 1:
                    spread(bench, cards)
                elif cards > 1:
                    (ended_early if piece in ("stop", "crash") else speeds)(bench, cards, piece)
    lines = [json.loads(line) for line in bench.lines.read_text(encoding="utf-8").splitlines()]
    found = summary(lines)
    (bench.folder / "cards.json").write_text(json.dumps(found, ensure_ascii=False, indent=1), encoding="utf-8")
    print("\n" + show(found), flush=True)
    return found


def machine() -> Record:
    """Cards and versions."""
    import accelerate
    import torch
    import transformers

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cards": names, "torch": torch.__version__, "transformers": transformers.__version__,
            "accelerate": accelerate.__version__, "processors": os.cpu_count()}  # fmt: skip


if __name__ == "__main__":
    main()
