"""A small ComfyUI client: queue a prompt, follow it over the websocket, fetch what it wrote."""

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

PREVIEW, TEXT, PREVIEW_WITH_METADATA = 1, 3, 4  # the host's binary event numbers


class Refused(Exception):
    """The server's answer was an HTTP error."""

    def __init__(self, status: int, body: str):
        super().__init__(f"HTTP {status}: {body[:2000]}")
        self.status = status
        self.body = body


@dataclass
class Run:
    """What was heard of one prompt."""

    prompt_id: str
    refused: dict[str, Any] = field(default_factory=dict)
    """Wrong inputs by node id; the host runs the outputs that do not need these nodes."""
    executed: list[str] = field(default_factory=list)
    """Ids of the nodes that ran, in order."""
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the output nodes told the page, by node id."""
    progress: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """(value, max) of every step, by node id."""
    previews: list[bytes] = field(default_factory=list)
    """Preview images as the page gets them: an encoded JPEG or PNG."""
    texts: dict[str, str] = field(default_factory=dict)
    """What was last written on a node while it ran, by node id."""
    error: dict[str, Any] | None = None
    """The host's execution_error message."""
    is_interrupted: bool = False
    seconds: float = 0.0

    @property
    def has_succeeded(self) -> bool:
        return self.error is None and not self.is_interrupted and not self.refused


class Client:
    """Talks to one server."""

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

    def queue(self, prompt: dict[str, Any], client_id: str = "", **extra: Any) -> Run:
        """Queues a prompt. Raises `Refused` when the host's validation says no to all of it."""
        body = {"prompt": prompt, "client_id": client_id, **extra}
        answer = json.loads(self.post("/prompt", body))
        return Run(answer["prompt_id"], refused=answer["node_errors"])

    def run(
        self,
        prompt: dict[str, Any],
        on_event: Callable[[str, dict[str, Any]], None] | None = None,
        timeout_s: float = 300.0,
        **extra: Any,
    ) -> Run:
        """Queues a prompt and listens until it has ended, however it ends.

        Args:
            prompt: API format.
            on_event: told of each message's type and data as it arrives.
            timeout_s: for the whole run; then the prompt is interrupted and TimeoutError raised.
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
                    raise TimeoutError(f"the prompt did not end in {timeout_s} s") from None
                if isinstance(frame, bytes):
                    _hear_binary(run, frame)
                    continue
                message = json.loads(frame)
                kind, data = message["type"], message["data"]
                if data.get("prompt_id", run.prompt_id) != run.prompt_id:
                    continue
                has_ended = _hear(run, kind, data)
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
        """The host's record of a prompt; it appears a moment after the prompt has ended."""
        for _ in range(50):
            found = self.get_json(f"/history/{prompt_id}")
            if found:
                return found[prompt_id]
            time.sleep(0.1)
        raise KeyError(f"the history has no prompt {prompt_id}")

    def view(self, file: dict[str, str]) -> bytes:
        """The bytes of a {filename, subfolder, type}."""
        return self.get("/view?" + urllib.parse.urlencode(file))

    def upload(self, name: str, content: bytes, subfolder: str = "") -> dict[str, str]:
        """Puts an image into the host's input folder as the page does."""
        edge = uuid.uuid4().hex
        fields = {"subfolder": subfolder, "overwrite": "true"}
        parts = [
            f'--{edge}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
            for key, value in fields.items()
        ]
        head = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        parts += [head.encode() + b"Content-Type: image/png\r\n\r\n" + content + b"\r\n"]
        request = urllib.request.Request(
            self.url + "/upload/image",
            data=b"".join(parts) + f"--{edge}--\r\n".encode(),
            headers={"Content-Type": f"multipart/form-data; boundary={edge}"},
        )
        return json.loads(self._send(request))

    def _send(self, request: urllib.request.Request) -> bytes:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise Refused(error.code, error.read().decode(errors="replace")) from None


def _hear(run: Run, kind: str, data: dict[str, Any]) -> bool:
    """Notes a message; whether the prompt has ended with it."""
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
    # "executing nothing" comes last of all, after success, error and interruption alike
    return kind == "executing" and data["node"] is None


def _hear_binary(run: Run, frame: bytes) -> None:
    kind = struct.unpack(">I", frame[:4])[0]
    if kind == PREVIEW:  # then an image format, then the image
        run.previews.append(frame[8:])
    elif kind == TEXT:  # the node's id with its length, then the text
        end = 8 + struct.unpack(">I", frame[4:8])[0]
        run.texts[frame[8:end].decode()] = frame[end:].decode()
    elif kind == PREVIEW_WITH_METADATA:
        length = struct.unpack(">I", frame[4:8])[0]
        run.previews.append(frame[8 + length :])
