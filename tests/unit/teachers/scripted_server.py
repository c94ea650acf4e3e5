"""An HTTP server that answers like vLLM's, or fails as the test asks it to; it knows no model."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from transformers import AutoTokenizer

NUM_IDS = 128


@dataclass
class Script:
    """What the server says, and what it was asked."""

    models: list[str] = field(default_factory=lambda: ["tiny"])
    max_model_len: int | None = 65
    max_logprobs: int = 20
    logits: bool = False
    shift: float = 0.0
    """Added to every log-prob, which makes them logits too."""
    own_log_probs: dict[int, float] = field(default_factory=dict)
    """Of some tokens, wherever they are written."""
    tokenizer: str | None = None
    """Folder; None: there is no /tokenize."""
    failures: list[int] = field(default_factory=list)
    """Status of the next completions, one each; 0 hangs up without an answer, -1 stays silent for a second, -2 sends
    its answer in pieces for a second."""
    delay_s: float = 0.0
    key: str | None = None
    is_a_web_page: bool = False
    requests: list[dict[str, Any]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0


@contextmanager
def serving(script: Script, port: int = 0) -> Iterator[str]:
    """The base URL while the block lasts."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            """Tests have no use for an access log."""

        def reply(self, status: int, content: Any) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(data)

        def page(self, text: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def refuse(self, status: int, message: str) -> None:
            self.reply(status, {"error": {"message": message, "type": "BadRequestError", "code": status}})

        def do_GET(self) -> None:
            if script.key is not None and self.headers["Authorization"] != f"Bearer {script.key}":
                return self.refuse(401, "Unauthorized")
            if script.is_a_web_page:
                return self.page("<!doctype html><title>Welcome</title>")
            if self.path != "/v1/models":
                return self.refuse(404, "Not Found")
            cards = [
                {"id": name, "object": "model", "root": f"/models/{name}", "max_model_len": script.max_model_len}
                for name in script.models
            ]
            return self.reply(200, {"object": "list", "data": cards})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/tokenize" and script.tokenizer is not None:
                tokenizer = AutoTokenizer.from_pretrained(script.tokenizer)
                ids = tokenizer.encode(asked["prompt"], add_special_tokens=asked["add_special_tokens"])
                return self.reply(200, {"count": len(ids), "max_model_len": script.max_model_len, "tokens": ids})
            if self.path != "/v1/completions":
                return self.refuse(404, "Not Found")
            with lock:
                script.requests.append(asked)
                status = script.failures.pop(0) if script.failures else 200
                script.in_flight += 1
                script.most_in_flight = max(script.most_in_flight, script.in_flight)
            try:
                time.sleep(1.0 if status == -1 else script.delay_s)
                return self.complete(asked, status)
            finally:
                with lock:
                    script.in_flight -= 1

        def complete(self, asked: dict[str, Any], status: int) -> None:
            if status == -2:
                self.send_response(200)
                self.send_header("Content-Length", "100")
                self.end_headers()
                with suppress(OSError):
                    for _ in range(10):
                        self.wfile.write(b" ")
                        time.sleep(0.1)
            if status in (0, -1, -2):
                self.close_connection = True
                return None
            if status != 200:
                return self.refuse(status, "as the script says")
            if asked["prompt_logprobs"] > script.max_logprobs:
                message = f"Requested prompt logprobs of {asked['prompt_logprobs']}, which is greater than max allowed"
                return self.refuse(400, f"{message}: {script.max_logprobs}")
            rows = [position(script, token, asked["prompt_logprobs"]) for token in asked["prompt"]]
            choice = {"index": 0, "prompt_logprobs": [None, *rows[1:]], "prompt_token_ids": asked["prompt"]}
            return self.reply(200, {"id": "x", "object": "text_completion", "choices": [choice]})

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def position(script: Script, token: int, num_candidates: int) -> dict[str, Any]:
    """The id after each token is half as probable, and so on; the token itself comes last of all."""
    order = [(token + 1 + step) % NUM_IDS for step in range(NUM_IDS)]
    ranks = {token: NUM_IDS} | {order[rank - 1]: rank for rank in range(1, num_candidates + 1)}
    scale = 1.0 if script.logits else -0.6931471805599453
    values = {index: scale * rank + script.shift for index, rank in ranks.items()} | {
        index: value for index, value in script.own_log_probs.items() if index == token
    }
    return {str(index): {"logprob": values[index], "rank": rank, "decoded_token": "w"} for index, rank in ranks.items()}
