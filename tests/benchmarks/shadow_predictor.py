"""Part two of shadow.py: the predictor beside the plain way, transformers' `generate` behind FastAPI, one at a time.

    python shadow_predictor.py --plain DIR PORT

serves the plain way. Both serve one policy: a random Llama of the micro-world's size, so that answers run to their
`max_tokens`, which are drawn unevenly (lognormal), as are the prompts' lengths. Each client asks again as soon as it is
answered. The same greedy answers, or the row is void.
"""

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from shadow_sides import free_port, started, stopped, wait_for

HERE = Path(__file__).parent
Row = dict[str, Any]


def make_policy(folder: Path) -> Path:
    """A random Llama as large as the micro-world's reference, with the tests' byte-level tokenizer and template."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from plumbline.microworld.reference import ReferenceRecipe

    sys.path.insert(0, str(HERE.parent))
    from tiny import make_tiny_policy

    make_tiny_policy(folder)
    tokenizer, size = AutoTokenizer.from_pretrained(folder), ReferenceRecipe()
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.context,
        tie_word_embeddings=True,
        initializer_range=size.initializer_range,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder, safe_serialization=True)
    return folder


def requests_of(n: int) -> list[dict[str, Any]]:
    draw = random.Random(7)
    found = []
    for number in range(n):
        words = " ".join(
            draw.choice(["who", "is", "ana", "a", "baker", "can", "help"]) for _ in range(draw.randint(3, 40))
        )
        limit = max(4, min(128, round(draw.lognormvariate(3.2, 0.7))))
        messages = [{"role": "user", "content": f"{number} {words}"}]
        found.append({"model": "policy", "messages": messages, "temperature": 0, "max_tokens": limit})
    return found


async def ask_all(url: str, requests: list[dict[str, Any]], concurrency: int) -> tuple[float, list[str], int]:
    """Seconds, answers in order, tokens said."""
    import aiohttp

    texts, tokens, waiting = [""] * len(requests), 0, iter(enumerate(requests))

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal tokens
        for number, body in waiting:
            async with session.post(f"{url}/chat/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()
                said = await answer.json()
            texts[number] = said["choices"][0]["message"]["content"]
            tokens += said["usage"]["completion_tokens"]

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
        started_at = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(concurrency)))
        return time.perf_counter() - started_at, texts, tokens


@contextmanager
def plain(policy: Path, threads: int, folder: Path) -> Iterator[tuple[str, int]]:
    port, log = free_port(), folder / "plain.log"
    process = started([sys.executable, __file__, "--plain", str(policy), str(port), str(threads)], set(), log)
    try:
        wait_for(port, process, log)
        yield f"http://127.0.0.1:{port}/v1", process.pid
    finally:
        stopped(process)


@contextmanager
def ours(policy: Path, threads: int, folder: Path) -> Iterator[tuple[str, int]]:
    from plumbline.serving import PredictorProcess

    with PredictorProcess.start({"policy": policy}, log=folder / "predictor.log", threads=threads) as process:
        yield process.openai_url, process.process.pid


def measure(quick: bool, threads: int) -> tuple[list[Row], float]:
    """A row per side and concurrency, medians over interleaved rounds; and the ratio of tokens per second at 8."""
    rounds, n = (1, 48) if quick else (5, 192)
    rates: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    equal = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy = make_policy(folder / "policy")
        with plain(policy, threads, folder) as one, ours(policy, threads, folder) as other:
            sides = {"plain generate, one at a time": one, "plumb serve": other}
            for url, _ in sides.values():
                asyncio.run(ask_all(url, requests_of(4), 4))
            for concurrency in (1, 8, 32):
                asked = requests_of(max(n, 2 * concurrency))
                for _ in range(rounds):
                    said = {}
                    for side, (url, pid) in sides.items():
                        before = spent(pid)
                        seconds, said[side], tokens = asyncio.run(ask_all(url, asked, concurrency))
                        found = (len(asked) / seconds, tokens / seconds, tokens / (spent(pid) - before))
                        rates.setdefault((side, concurrency), []).append(found)
                    first, second = said.values()
                    equal = equal and first == second
            memory = {side: psutil.Process(pid).memory_info().rss / 2**20 for side, (_, pid) in sides.items()}
    rows = []
    for (side, concurrency), runs in rates.items():
        requests, tokens, per_cpu = (sorted(column)[len(runs) // 2] for column in zip(*runs, strict=True))
        base = sorted(run[1] for run in rates["plain generate, one at a time", concurrency])[len(runs) // 2]
        rows.append(
            {
                "side": side,
                "concurrency": concurrency,
                "requests/s": round(requests, 2),
                "tokens/s": round(tokens, 1),
                "times plain": round(tokens / base, 2),
                "tokens/cpu s": round(per_cpu, 1),
                "same answers": "yes" if equal else "VOID: they differ",
                "rss MiB": round(memory[side]),
            }
        )
    ratio = next(row["times plain"] for row in rows if row["side"] == "plumb serve" and row["concurrency"] == 8)
    return rows, ratio if equal else 0.0


def spent(pid: int) -> float:
    return sum(psutil.Process(pid).cpu_times()[:2])


def serve_plain(directory: str, port: int, threads: int) -> None:
    """What anybody would write in an afternoon."""
    import threading

    import torch
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.concurrency import run_in_threadpool
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    app, lock = FastAPI(), threading.Lock()

    def generate(body: dict[str, Any]) -> tuple[str, int]:
        asked = tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with lock, torch.inference_mode():
            row = model.generate(**asked, max_new_tokens=body["max_tokens"], do_sample=False)[0]
        said = row[asked["input_ids"].shape[1] :]
        return tokenizer.decode(said, skip_special_tokens=True), len(said)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> dict[str, Any]:
        text, tokens = await run_in_threadpool(generate, await request.json())
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"object": "chat.completion", "choices": [choice], "usage": {"completion_tokens": tokens}}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__" and sys.argv[1:2] == ["--plain"]:
    serve_plain(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
