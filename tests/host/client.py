"""Minimal ComfyUI client: queues a prompt, follows it over the websocket, fetches its files."""

from __future__ import annotations

import json
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import websocket

PREVIEW, TEXT, PREVIEW_WITH_METADATA = 1, 3, 4  # types of binary websocket events


class HttpError(Exception):
    """The server answered with an HTTP error."""

    def __init__(self, status: int, body: str):
        super().__init__(f"HTTP {status}: {body[:2000]}")
        self.status = status
        self.body = body


@dataclass
class PromptRun:
    """Messages of one prompt."""

    prompt_id: str
    node_errors: dict[str, Any] = field(default_factory=dict)
    """Invalid inputs by node id; ComfyUI runs the outputs that do not depend on these nodes."""
    executed: list[str] = field(default_factory=list)
    """Ids of the executed nodes, in order."""
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """UI output by node id."""
    progress: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """(value, max) of each progress message, by node id."""
    previews: list[bytes] = field(default_factory=list)
    """Encoded preview images, JPEG or PNG."""
    texts: dict[str, str] = field(default_factory=dict)
    """Last progress text by node id."""
    error: dict[str, Any] | None = None
    """ComfyUI's execution_error message."""
    is_interrupted: bool = False
    seconds: float = 0.0

    @property
    def has_succeeded(self) -> bool:
        return self.error is None and not self.is_interrupted and not self.node_errors


class Client:
    """Client of one server."""

    def __init__(self, url: str):
        self.url = url

    def object_info(self) -> dict[str, dict[str, Any]]:
        return self.get_json("/object_info")

    def get_json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def get(self, path: str) -> bytes:
        return self._send(urllib.request.Request(self.url + path))

    def post(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        request = urllib.request.Request(
            self.url + path,
            data=json.dumps(body or {}).encode(),
            headers={"Content-Type": "application/json"},
        )
        return self._send(request)

    def queue(self, prompt: dict[str, Any], client_id: str = "", **extra: Any) -> PromptRun:
        """Queues a prompt. Raises `HttpError` if the validation rejects all of its outputs."""
        body = {"prompt": prompt, "client_id": client_id, **extra}
        answer = json.loads(self.post("/prompt", body))
        return PromptRun(answer["prompt_id"], node_errors=answer["node_errors"])

    def run(
        self,
        prompt: dict[str, Any],
        on_event: Callable[[str, dict[str, Any]], None] | None = None,
        timeout_s: float = 300.0,
        **extra: Any,
    ) -> PromptRun:
        """Queues a prompt and waits for its end: success, error or interruption.

        Args:
            prompt: API format.
            on_event: called with the type and data of each message.
            timeout_s: limit for the run; then the prompt is interrupted and TimeoutError is raised.
            extra: further keys of the request, such as `extra_data`.
        """
        client_id = uuid.uuid4().hex
        address = self.url.replace("http://", "ws://") + f"/ws?clientId={client_id}"
        socket = websocket.create_connection(address, timeout=timeout_s)
        try:
            start = time.monotonic()
            run = self.queue(prompt, client_id, **extra)
            while True:
                socket.settimeout(max(0.1, start + timeout_s - time.monotonic()))
                try:
                    frame = socket.recv()
                except websocket.WebSocketTimeoutException:
                    self.interrupt()
                    raise TimeoutError(f"the prompt did not finish within {timeout_s} s") from None
                if isinstance(frame, bytes):
                    _handle_binary(run, frame)
                    continue
                message = json.loads(frame)
                kind, data = message["type"], message["data"]
                if data.get("prompt_id", run.prompt_id) != run.prompt_id:
                    continue
                has_ended = _handle(run, kind, data)
                if on_event:
                    on_event(kind, data)
                if has_ended:
                    run.seconds = time.monotonic() - start
                    return run
        finally:
            socket.close()

    def interrupt(self) -> None:
        self.post("/interrupt")

    def history(self, prompt_id: str) -> dict[str, Any]:
        """The history entry of a prompt; it appears shortly after the prompt has ended."""
        for _ in range(50):
            history = self.get_json(f"/history/{prompt_id}")
            if history:
                return history[prompt_id]
            time.sleep(0.1)
        raise KeyError(f"the history has no prompt {prompt_id}")

    def view(self, file: dict[str, str]) -> bytes:
        """The bytes of a {filename, subfolder, type}."""
        return self.get("/view?" + urllib.parse.urlencode(file))

    def upload(self, name: str, content: bytes, subfolder: str = "") -> dict[str, str]:
        """Uploads an image to the input folder."""
        boundary = uuid.uuid4().hex
        fields = {"subfolder": subfolder, "overwrite": "true"}
        start = f"--{boundary}\r\nContent-Disposition: form-data; name="
        parts = [f'{start}"{key}"\r\n\r\n{value}\r\n'.encode() for key, value in fields.items()]
        head = f'{start}"image"; filename="{name}"\r\n'
        parts += [head.encode() + b"Content-Type: image/png\r\n\r\n" + content + b"\r\n"]
        request = urllib.request.Request(
            self.url + "/upload/image",
            data=b"".join(parts) + f"--{boundary}--\r\n".encode(),
            headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
        )
        return json.loads(self._send(request))

    def _send(self, request: urllib.request.Request) -> bytes:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise HttpError(error.code, error.read().decode(errors="replace")) from None


def error_message(client: Client, prompt: dict[str, Any]) -> str:
    """ComfyUI's validation error, or the failed node's class and message."""
    try:
        run = client.run(prompt)
    except HttpError as error:
        return f"HTTP {error.status}: {error.body}"
    if run.node_errors:
        return json.dumps(run.node_errors)
    assert run.error is not None, "the prompt ran although its input is invalid"
    return f"{run.error['node_type']}: {run.error['exception_message']}"


def _handle(run: PromptRun, kind: str, data: dict[str, Any]) -> bool:
    """Records a message; returns whether the prompt has ended."""
    if kind == "executing" and data["node"] is not None:
        run.executed.append(data["node"])
    elif kind == "progress":
        run.progress.setdefault(data["node"], []).append((data["value"], data["max"]))
    elif kind == "executed" and data.get("output"):
        run.outputs[data["node"]] = data["output"]
    elif kind == "execution_error":
        run.error = data
    elif kind == "execution_interrupted":
        run.is_interrupted = True
    # the last message after success, error and interruption alike has no node
    return kind == "executing" and data["node"] is None


def _handle_binary(run: PromptRun, frame: bytes) -> None:
    kind = struct.unpack(">I", frame[:4])[0]
    if kind == PREVIEW:  # followed by the image format and the image
        run.previews.append(frame[8:])
    elif kind == TEXT:  # followed by the length of the node id, the id and the text
        end = 8 + struct.unpack(">I", frame[4:8])[0]
        run.texts[frame[8:end].decode()] = frame[end:].decode()
    elif kind == PREVIEW_WITH_METADATA:
        length = struct.unpack(">I", frame[4:8])[0]
        run.previews.append(frame[8 + length :])
