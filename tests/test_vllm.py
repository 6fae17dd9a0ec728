"""vLLM beside OneCard: its own argument names, what it cannot take, a process that is followed and ends with its group.

vLLM itself is a stand-in (stand_in_vllm.py) that takes vLLM's argument names and no others.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import httpx
import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import app
from core import anatomy, vllm
from core.dataset import Identity, Message, Row
from core.device import Device
from core.errors import BusyError, ModelError, UserError
from core.export.elsewhere import adapter_commands, commands
from core.export.order import Order
from core.generate import Column, Sampling, stream
from core.lending import Lending
from core.vllm_server import VllmServer
from core.workspace import Workspace
from ui import keys, serve_command
from ui.edits import Edits
from ui.page import Page
from ui.serving import ServingPanel, panel_state

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = Path(__file__).parent / "stand_in_vllm.py"
CARD = json.dumps({"system": "You are 小禾.", "new_words": ["小禾"]})


def stand_in() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stand_in_vllm", STAND_IN)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(arguments: list[str]) -> SimpleNamespace:
    """The arguments as vLLM's own grammar reads them."""
    assert arguments[0] == "serve"
    return stand_in().parser().parse_args(arguments[1:])  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of adapters on the tiny model: "one" and "two" are plain, the others are what vLLM refuses."""
    wanted = {
        "one": {"r": 4, "target_modules": "all-linear"}, "two": {"r": 12, "target_modules": ["q_proj"]},
        "dora": {"r": 4, "target_modules": ["q_proj"], "use_dora": True},
        "large": {"r": 640, "target_modules": ["q_proj"]}, "head": {"r": 4, "target_modules": ["lm_head"]},
    }  # fmt: skip
    made = {}
    for name, settings in wanted.items():
        made[name] = tmp_path_factory.mktemp("adapters") / name
        base = AutoModelForCausalLM.from_pretrained(tiny_model)
        tuned = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **settings))
        tuned.save_pretrained(made[name])
        (made[name] / "onecard.json").write_text(CARD, "utf-8")
    return made


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `vllm` command: the stand-in."""
    path = tmp_path / "vllm"
    path.write_text(f"#!{sys.executable}\nimport runpy\nrunpy.run_path({str(STAND_IN)!r}, run_name='__main__')\n")
    path.chmod(0o755)
    monkeypatch.setenv("ONECARD_VLLM", str(path))
    monkeypatch.setenv("STAND_IN_RECORD", str(tmp_path / "record.json"))
    return path


def open_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def until(wanted: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not wanted():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """Whether a process, sent its signal before, ends; one that nobody waited for counts."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, f"{pid} has not ended")
    return True


# What it is called with


def test_every_argument_is_one_of_vllm_s_own(adapters: dict[str, Path], tmp_path: Path) -> None:
    one = vllm.Call("/models/base", ("b", "base"), {"小禾": adapters["one"]}, 4, port=8123, quantization="bitsandbytes")
    asked = parsed(one.arguments())
    assert (asked.model_tag, asked.host, asked.port) == ("/models/base", "127.0.0.1", 8123)
    assert asked.served_model_name == ["b", "base"] and asked.quantization == "bitsandbytes"
    assert asked.enable_lora and asked.max_lora_rank == 8 and asked.generation_config == "vllm"
    assert asked.allowed_origins == "[]", "no other web page"
    assert asked.max_loras is None, "vLLM's own is one"
    odd = {f"a={i}, b": tmp_path / f"c,{i}" for i in range(11)}
    asked = parsed(vllm.Call("b", ("b",), odd, 300, dtype="float16", gpu_memory_utilization=0.5).arguments())
    assert stand_in().modules(asked.lora_modules) == {name: str(folder) for name, folder in odd.items()}
    assert (asked.max_lora_rank, asked.max_loras, asked.max_cpu_loras) == (320, 8, 11)
    assert (asked.dtype, asked.gpu_memory_utilization) == ("float16", 0.5)
    bare = parsed(vllm.Call("b", ("b",), more=("--max-model-len", "4096", "--enforce-eager")).arguments())
    assert bare.enable_lora is None and bare.max_model_len == "4096" and bare.enforce_eager is True


@pytest.mark.parametrize("form", ["adapter", "merged", "bnb"])
def test_the_commands_shown_are_vllm_s(form: str, adapters: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    order = Order(adapters["one"], str(tiny_model), form, tmp_path / "a b", "小禾", "You are 小禾.")  # type: ignore[arg-type]
    found = {each.tool: each for each in commands(order, tmp_path / "a b")}
    first, second = found["vLLM"].text.splitlines()
    words = shlex.split(first)
    asked = parsed(words[1:])
    assert words[0] == "vllm" and asked.host == "127.0.0.1", "vLLM by itself listens on every network"
    assert asked.quantization == ("bitsandbytes" if form == "bnb" else None)
    assert ("vllm-bnb-plugin" in found["vLLM"].note.en) == (form == "bnb")  # type: ignore[union-attr]
    asks = shlex.split(second)
    body = json.loads(asks[asks.index("-d") + 1])
    served = stand_in().modules(asked.lora_modules) if form == "adapter" else dict.fromkeys(asked.served_model_name)
    assert body["model"] in served and body["messages"][0] == {"role": "system", "content": "You are 小禾."}
    assert "http://127.0.0.1:8000/v1/chat/completions" in asks


def test_the_commands_of_the_documents_are_understood() -> None:
    text = "".join((ROOT / "docs" / name).read_text("utf-8") for name in ("scale.md", "api.md"))
    ours = re.findall(r"^(python app.py serve .*?vllm .*)$|`(python app.py serve [^`]* -- [^`]*)`", text, re.M)
    theirs = re.findall(r"^(?:CUDA_VISIBLE_DEVICES=. )?(vllm serve .*)$", text, re.M)
    assert len(ours) == 3 and len(theirs) == 3
    for plain, quoted in ours:
        asked = app.parser().parse_args(shlex.split(plain or quoted)[2:])
        assert asked.engine == "vllm" and all("=" in each for each in asked.adapters)
        parsed(["serve", "x", *asked.more])
    for command in theirs:
        asked = parsed(shlex.split(command)[1:])
        assert asked.host == "127.0.0.1" and asked.enable_lora and len(asked.lora_modules) == asked.max_loras == 2


def test_what_vllm_and_sglang_cannot_take_is_said(adapters: dict[str, Path], tiny_model: Path) -> None:
    why = {name: vllm.problem(anatomy.examine(folder)) for name, folder in adapters.items()}
    assert why["one"] is None and why["two"] is None
    assert why["dora"] and "DoRA" in why["dora"].en and why["large"] and "640" in why["large"].zh
    assert why["head"] and "output layer" in why["head"].en
    for name in ("dora", "large", "head"):
        with pytest.raises(ModelError, match=f"“{name}”.*export the merged model"):
            vllm.fitted(name, adapters[name], str(tiny_model))
    for name, tools in {"dora": {"vLLM", "SGLang"}, "large": {"vLLM"}, "one": set()}.items():
        found = adapter_commands(anatomy.examine(adapters[name]), adapters[name], str(tiny_model), name, "")
        assert {each.tool for each in found if each.problem} == tools
        assert all(bool(each.text) != bool(each.problem) for each in found)


def test_the_plain_program_answers_as_the_engine_does(
    adapters: dict[str, Path], tiny_model: Path, tmp_path: Path, tiny_engine: object, capsys: pytest.CaptureFixture[str]
) -> None:
    from core import adapters as folders

    asked = adapter_commands(
        anatomy.examine(adapters["one"]), adapters["one"], str(tiny_model), "one", "Be 小禾.", "en"
    )
    text = next(each.text for each in asked if each.tool == "transformers + PEFT")
    lines = text.splitlines()
    assert lines[0] == "python - <<'END'" and lines[-1] == "END"
    (tmp_path / "ask.py").write_text("\n".join(lines[1:-1]).replace("max_new_tokens=200", "max_new_tokens=12"), "utf-8")
    tiny_engine.attach(folders.read(adapters["one"], "one"))  # type: ignore[attr-defined]
    column = Column((Message("system", "Be 小禾."), Message("user", "Who are you?")), "one")
    sampling = Sampling(max_new_tokens=12, temperature=0)
    expected = list(stream(tiny_engine, [column], sampling))[-1][0].text  # type: ignore[arg-type]
    threads = torch.get_num_threads()
    runpy.run_path(str(tmp_path / "ask.py"), run_name="__main__")
    torch.set_num_threads(threads)
    assert capsys.readouterr().out.strip() == expected.strip() and expected.strip()


def test_the_environment_holds_what_vllm_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ONECARD_PASSWORD", "ONECARD_API_KEY", "HF_TOKEN", "MODELSCOPE_API_TOKEN", "PYTORCH_ALLOC_CONF"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    given = vllm.environment(("a-key",))
    assert "canary" not in given.values() and given["CUDA_VISIBLE_DEVICES"] == "3" and given["PATH"]
    assert given["VLLM_API_KEY"] == "a-key" and given["VLLM_NO_USAGE_STATS"] == "1" and given["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(UserError, match="one key"):
        vllm.environment(("a", "b"))


def test_where_vllm_is_looked_for(tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vllm.found_or_refused() == program
    monkeypatch.setenv("ONECARD_VLLM", str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="no program is there"):
        vllm.found_or_refused()
    monkeypatch.delenv("ONECARD_VLLM")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "elsewhere" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert vllm.found_or_refused() == program
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="pip install vllm"):
        vllm.found_or_refused()


# The process


def started(program: Path, **environment: str) -> tuple[VllmServer, dict[str, int]]:
    """A server on the stand-in, which has got as far as loading."""
    server, record = VllmServer(), program.parent / "record.json"
    record.unlink(missing_ok=True)
    call = vllm.Call(str(program.parent / "base"), ("base",), port=open_port())
    (program.parent / "base").mkdir(exist_ok=True)
    (program.parent / "base" / "config.json").write_text("{}")
    server.start([str(program), *call.arguments()], vllm.environment() | environment, call.host, call.port)
    until(lambda: record.exists() or not server.running, "the stand-in did not start")
    return server, json.loads(record.read_text("utf-8"))


def test_it_is_ready_when_it_answers_and_ends_with_its_workers(program: Path) -> None:
    server, facts = started(program)
    until(lambda: server.state == "ready", "ready")
    assert "INFO vLLM API server version 0.33.0" in server.lines, "without colours"
    with pytest.raises(BusyError):
        server.start(["anything"], {}, "127.0.0.1", 1)
    server.stop()
    assert server.state == "off" and server.failure is None
    assert gone(facts["pid"]) and gone(facts["worker"])
    server.stop()


def test_one_that_does_not_listen_is_killed(program: Path) -> None:
    server, facts = started(program, STAND_IN_STUBBORN="1", STAND_IN_SLOW="600")
    server.stop(wait=False)
    assert server.state == "stopping" and psutil.pid_exists(facts["pid"])
    server.stop()  # asked once more
    assert server.state == "off" and gone(facts["pid"]) and gone(facts["worker"])
    server, facts = started(program, STAND_IN_STUBBORN="1")
    server.stop(patience=0.1)
    assert gone(facts["pid"]) and gone(facts["worker"])


def test_one_that_dies_is_said_and_leaves_no_worker(program: Path) -> None:
    server, facts = started(program)
    os.kill(facts["pid"], signal.SIGKILL)
    with pytest.raises(UserError, match="SIGKILL") as caught:
        server.wait()
    assert server.state == "failed" and gone(facts["worker"]) and "Loading weights" in caught.value.text.zh
    with pytest.raises(UserError, match="cannot be started"):
        server.start(["/nowhere/vllm"], {}, "127.0.0.1", 1)
    with pytest.raises(UserError, match="cannot be started: embedded null byte"):
        server.start([sys.executable, "a\0b"], {}, "127.0.0.1", 1)


def test_its_log_is_read_on_when_nobody_can_be_told(program: Path) -> None:
    with open(os.devnull, "w", encoding="utf-8") as terminal:
        server = VllmServer(told=lambda line: print(line, file=terminal))
    lines = "import time; [print(f'line {i}', flush=True) for i in range(9)]; time.sleep(600)"
    server.start([sys.executable, "-c", lines], dict(os.environ), "127.0.0.1", open_port())
    until(lambda: "line 8" in server.lines, "every line")
    server.stop()


@pytest.mark.parametrize(
    ("key", "token", "expected", "variable"),
    [
        ("k", "t", "k", "ONECARD_API_KEY"),
        ("", "t", "t", "ONECARD_TOKEN"),
        ("", "", "drawn", ""),
        ("", None, "drawn", ""),
    ],
)
def test_vllm_on_the_page_never_goes_without_a_key(
    key: str, token: str | None, expected: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ((keys.KEYS, key), (keys.TOKEN, token)):
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
    (found,) = keys.for_vllm()
    assert (keys.is_drawn(found) if expected == "drawn" else found == expected) and keys.variable_of(found) == variable


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv (util-linux) on this machine")
def test_it_ends_with_a_program_that_was_killed(program: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from core import vllm, vllm_server;"
        "call = vllm.Call(sys.argv[3], ('b',), port=int(sys.argv[4])); server = vllm_server.VllmServer();"
        "server.start([sys.argv[2], *call.arguments()], vllm.environment(), call.host, call.port); time.sleep(600)"
    )
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    given = [str(ROOT), str(program), str(tmp_path / "base"), str(open_port())]
    ours = subprocess.Popen([sys.executable, "-c", code, *given])
    try:
        record = tmp_path / "record.json"
        until(record.exists, "started")
        facts = json.loads(record.read_text("utf-8"))
        assert psutil.Process(facts["pid"]).ppid() == ours.pid
        ours.kill()
        assert gone(facts["pid"]) and gone(facts["worker"])
    finally:
        ours.kill()
        ours.wait()


# The command


def serve(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if name != "ONECARD_API_KEY"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), "serve", "--engine", "vllm", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**clean, "LC_ALL": "en_US.UTF-8", **environment},
    )  # fmt: skip


def test_serve_starts_it_with_the_adapters_and_ends_it(
    program: Path, adapters: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(adapters["one"], tmp_path / "a, b")
    given = [f"one={tmp_path / 'a, b'}", f"two={adapters['two']}"]
    port = open_port()
    process = serve(
        "--model", tiny_model, "--port", port, "--adapters", *given, "--", "--max-model-len", "4096",
        ONECARD_API_KEY="a-key", HF_TOKEN="hf_canary",
    )  # fmt: skip
    try:
        assert process.stderr is not None
        said = []
        while not said or not said[-1].startswith("curl"):
            said.append(process.stderr.readline())
            assert said[-1], said
        assert any(f"http://127.0.0.1:{port}/v1" in line for line in said), said
        assert "Bearer $ONECARD_API_KEY" in said[-1] and "You are 小禾." in said[-1] and "a-key" not in "".join(said)
        models = f"http://127.0.0.1:{port}/v1/models"
        assert httpx.get(models, trust_env=False).status_code == 401
        names = httpx.get(models, headers={"authorization": "Bearer a-key"}, trust_env=False).json()["data"]
        assert [each["id"] for each in names] == [tiny_model.name, str(tiny_model), "base", "one", "two"]
        facts = json.loads((tmp_path / "record.json").read_text("utf-8"))
        asked = parsed(facts["argv"])
        assert asked.model_tag == str(tiny_model) and asked.max_model_len == "4096" and asked.max_loras == 2
        assert asked.max_lora_rank == 16 and "a-key" not in facts["argv"]
        assert facts["environment"]["VLLM_API_KEY"] == "a-key" and "HF_TOKEN" not in facts["environment"]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0 and "Traceback" not in err
        assert gone(facts["pid"]) and gone(facts["worker"])
    finally:
        process.kill()


@pytest.fixture
def in_process() -> Iterator[Callable[..., str]]:
    """in_process(argument, ...) -> what `app.py serve` refuses with, without a process of its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: object) -> str:
        with pytest.raises(UserError) as caught:
            serve_command.run_serve(app.parser().parse_args(["serve", *map(str, arguments)]))
        return caught.value.text.en

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def test_serve_says_what_vllm_cannot(
    program: Path,
    adapters: dict[str, Path],
    tiny_model: Path,
    in_process: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = ["--engine", "vllm", "--model", tiny_model]
    assert "“x”: vLLM takes no DoRA" in in_process(*base, "--adapters", f"x={adapters['dora']}")
    assert "does not fit the base pocket" in in_process("--engine", "vllm", "--adapters", f"x={adapters['one']}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert str(os.getpid()) in in_process("--port", taken.getsockname()[1], *base)
    died = in_process(*base, "--port", open_port(), "--quant_method", "bnb")
    assert "pip install vllm-bnb-plugin" in died and "Unknown quantization method" in died
    assert "unrecognized arguments: --no-such" in in_process(*base, "--port", open_port(), "--", "--no-such")
    assert "--engine vllm" in in_process("--", "--enforce-eager")
    monkeypatch.setenv("ONECARD_VLLM", "")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "pip install vllm" in in_process(*base)


# The page


@pytest.fixture
def page(tmp_path: Path, tiny_model: Path, adapters: dict[str, Path], program: Path) -> Iterator[Page]:
    """A page whose library holds three adapters of the tiny model; vLLM takes "one" and "two"."""
    workspace = Workspace(tmp_path / "home")
    workspace.create("rows", (Row("你是谁?", "", "我是{{NAME}}。"),), Identity("小禾", "Xiaohe", "青禾", "Qinghe"))
    workspace.select_model(str(tiny_model))
    for name in ("one", "two", "dora"):
        workspace.library.bring_folder(str(adapters[name]))
    yield Page(workspace, "en", Edits(workspace))
    assert workspace.close(60)
    assert not workspace.lending.server.running


def named(page: Page, name: str) -> str:
    return next(choice.id for choice in page.workspace.library.all() if choice.name == name)


def html(page: Page, name: str) -> str:
    return str(panel_state(page, named(page, name), "")["html"])


def said(answer: str) -> str:
    return str(json.loads(answer)["said"])


def test_the_card_is_lent_to_vllm_and_comes_back(page: Page, tiny_config: object) -> None:
    workspace, lending = page.workspace, page.workspace.lending
    question = Column((Message("user", "你是谁?"),), named(page, "one"))
    first = list(workspace.answer([question], Sampling(max_new_tokens=4, temperature=0)))[-1][0].text
    assert workspace.engine.resident is not None
    lending.start(named(page, "one"), workspace.model, open_port(), companions=True)
    assert workspace.engine.resident is None, "given back before vLLM loads"
    until(lambda: lending.server.state == "ready", "ready")
    asked = parsed(json.loads(Path(os.environ["STAND_IN_RECORD"]).read_text("utf-8"))["argv"])
    assert set(stand_in().modules(asked.lora_modules)) == {"one", "two"}, "the DoRA one is left out"
    with pytest.raises(BusyError, match="vLLM has the card"):
        list(workspace.answer([question], Sampling(max_new_tokens=4)))
    with pytest.raises(BusyError, match="vLLM has the card"):
        workspace.start("rows", tiny_config)  # type: ignore[arg-type]
    assert workspace.runs() == []
    lending.server.stop()
    again = list(workspace.answer([question], Sampling(max_new_tokens=4, temperature=0)))[-1][0].text
    assert again == first


def test_the_card_is_lent_between_two_uses_and_never_in_one(page: Page, tiny_config: object) -> None:
    workspace, lending, one = page.workspace, page.workspace.lending, named(page, "one")
    asked, told = threading.Event(), list[str]()

    def lend() -> None:
        asked.set()
        lending.start(one, workspace.model, open_port())
        told.append("lent")

    lender = threading.Thread(target=lend)
    with lending.using():  # as an answer, a row report, a proof or a start does
        lender.start()
        asked.wait()
        until(lambda: refused(workspace, tiny_config), "nobody gets in any more")
        assert told == [] and workspace.runs() == [] and not lending.server.running
        told.append("used")
    lender.join(60)
    assert told == ["used", "lent"] and lending.server.running, "the use that was ending was waited for"
    lending.server.stop()
    with lending.using(), pytest.raises(BusyError, match="in use"):
        lending._patience = 0.1
        lending.start(one, workspace.model, open_port())
    with lending.using():
        pass  # it stays here, and may be used again


def refused(workspace: Workspace, config: object) -> bool:
    """Whether neither an answer nor a run begins, because vLLM is about to have the card."""
    with contextlib.suppress(BusyError), workspace.hold([]):
        return False
    with pytest.raises(BusyError, match="vLLM has the card"):
        workspace.start("rows", config)  # type: ignore[arg-type]
    return True


def test_vllm_gets_what_is_free_of_the_card(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    lending, engine = page.workspace.lending, page.workspace.engine
    assert lending._share() is None, "no card"
    monkeypatch.setattr(engine, "device", Device("cuda", "Test", 24_000_000_000))
    for free, share in {23_900_000_000: None, 15_000_000_000: 0.61, 0: 0.05}.items():
        monkeypatch.setattr("core.device.memory_free", lambda card, free=free: free)
        assert lending._share() == share


def test_closing_the_program_ends_vllm(page: Page) -> None:
    lending = page.workspace.lending
    lending.start(named(page, "one"), page.workspace.model, open_port(), keys=("a-key",))
    record = Path(os.environ["STAND_IN_RECORD"])
    until(record.exists, "started")
    facts = json.loads(record.read_text("utf-8"))
    assert facts["environment"]["VLLM_API_KEY"] == "a-key"
    assert page.workspace.close(60)
    assert lending.server.state == "off" and gone(facts["pid"]) and gone(facts["worker"])


def test_the_card_is_not_lent_while_it_is_needed(page: Page) -> None:
    workspace = page.workspace
    busy = Lending(workspace.engine, workspace.library, workspace._occupied)
    workspace.exports.start(named(page, "two"), workspace.exports.order(named(page, "two"), model=workspace.model))
    with pytest.raises(BusyError, match="under way"):
        busy.start(named(page, "one"), workspace.model, open_port())
    workspace.exports.stop()
    until(lambda: workspace.exports.now is None, "the export ended")
    with pytest.raises(ModelError, match="DoRA"):
        busy.start(named(page, "dora"), workspace.model, open_port())
    assert not busy.server.running


def test_the_panel_starts_follows_and_stops_vllm(page: Page) -> None:
    panel, one, port = ServingPanel(page), named(page, "one"), open_port()
    form = html(page, "one")
    assert "Serve with vLLM" in form and "the 1 other adapters" in form and "swift infer" in form
    assert "takes no DoRA" in html(page, "dora") and "Serve with vLLM" not in html(page, "dora")
    for odd in (80, 10**9, "8192", True, 4096.5):
        assert "Context length must be" in said(panel.on_start(SimpleNamespace(id=one, port=port, length=odd)))  # type: ignore[arg-type]
    for odd in (80, 70000, "8000", True, None):
        assert "whole number" in said(panel.on_start(SimpleNamespace(id=one, port=odd)))  # type: ignore[arg-type]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        held = said(panel.on_start(SimpleNamespace(id=one, port=number)))  # type: ignore[arg-type]
        assert f"Port {number} is in use" in held and str(os.getpid()) in held
    asked = SimpleNamespace(id=one, port=port, length=4096, companions=True)
    assert said(panel.on_start(asked)) == ""  # type: ignore[arg-type]
    assert "vLLM has the card" in said(panel.on_start(SimpleNamespace(id=one, port=open_port())))  # type: ignore[arg-type]
    until(lambda: page.workspace.lending.server.state == "ready", "ready")
    state = panel_state(page, one, "")
    assert f"http://127.0.0.1:{port}/v1" in str(state["html"]) and "one, two" in str(state["html"])
    assert "You are 小禾." in str(state["html"]) and "startup complete" in str(state["log"])
    assert "html" not in panel_state(page, one, str(state["seen"])), "it was seen"
    facts = json.loads(Path(os.environ["STAND_IN_RECORD"]).read_text("utf-8"))
    key = facts["environment"]["VLLM_API_KEY"]
    assert keys.is_drawn(key) and key not in facts["argv"] and str(state["html"]).count(key) == 1
    assert "ends with this vLLM" in str(state["html"]) and "Bearer $VLLM_API_KEY" in str(state["html"])
    assert parsed(facts["argv"]).max_model_len == "4096"
    assert "another adapter" not in html(page, "two") and "&quot;model&quot;: &quot;two&quot;" in html(page, "two")
    assert "serving another adapter, “one”" in html(page, "dora")
    panel.on_stop(SimpleNamespace(id=one))  # type: ignore[arg-type]
    until(lambda: page.workspace.lending.server.state == "off", "stopped")
    assert "Serve with vLLM" in html(page, "one")


def test_the_panel_says_why_vllm_died_and_that_there_is_none(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    panel, one, server = ServingPanel(page), named(page, "one"), page.workspace.lending.server
    monkeypatch.setenv("STAND_IN_SLOW", "600")
    panel.on_start(SimpleNamespace(id=one, port=open_port()))  # type: ignore[arg-type]
    record = Path(os.environ["STAND_IN_RECORD"])
    until(record.exists, "started")
    os.kill(json.loads(record.read_text("utf-8"))["pid"], signal.SIGKILL)
    until(lambda: server.state == "failed", "failed")
    state = panel_state(page, one, "")
    assert "SIGKILL" in str(state["failed"]) and "Serve with vLLM" in str(state["html"]), "it can be tried again"
    monkeypatch.setenv("ONECARD_VLLM", "")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "pip install vllm" in html(page, "one") and "pip install vllm" in said(
        panel.on_start(SimpleNamespace(id=one, port=open_port()))  # type: ignore[arg-type]
    )
    assert panel_state(page, "nobody", "") == {"seen": "", "html": "", "log": "", "running": False}
