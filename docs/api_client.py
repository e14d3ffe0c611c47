#!/usr/bin/env python3
"""Runs an API prompt on a ComfyUI server and fetches the files it wrote. Needs nothing but Python.

    python docs/api_client.py workflows/api/views_to_mesh.json -o results
    python docs/api_client.py PROMPT --server http://box:8188 --set DeconflictFusion.preset=draft

`--set CLASS.INPUT=VALUE` changes an input of every node of a class; values are JSON, else text.
Exit codes: 0 done, 1 a node failed, 2 the server refused the prompt or did not answer.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path


def main() -> int:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("prompt", type=Path, help="a file in ComfyUI's API format")
    words.add_argument("--server", default="http://127.0.0.1:8188")
    words.add_argument("-o", "--output", type=Path, default=Path("results"))
    words.add_argument("--set", action="append", default=[], metavar="CLASS.INPUT=VALUE")
    given = words.parse_args()
    prompt = changed(json.loads(given.prompt.read_text(encoding="utf-8")), given.set)
    try:
        queued = json.loads(ask(given.server, "/prompt", {"prompt": prompt}))
        record = finished(given.server, queued["prompt_id"])
        failed = refusals(queued["node_errors"]) + failures(record)
        for message in failed:
            print(message, file=sys.stderr)
        for message in texts_of(record):
            print(message, file=sys.stderr)
        for file in files_of(record):
            print(fetched(given.server, file, given.output))
        return 1 if failed else 0
    except urllib.error.HTTPError as error:  # wrong inputs: the body names the node and the input
        print(f"{given.server} refused: {error.read().decode()}", file=sys.stderr)
        return 2
    except urllib.error.URLError as error:
        print(f"No ComfyUI answers at {given.server}: {error.reason}", file=sys.stderr)
        return 2


def changed(prompt: dict, changes: list[str]) -> dict:
    """The prompt with the inputs that `--set` names."""
    for change in changes:
        place, _, text = change.partition("=")
        kind, _, name = place.partition(".")
        nodes = [node for node in prompt.values() if node["class_type"] == kind]
        if not nodes:
            raise SystemExit(f"--set {change}: the prompt has no {kind}.")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        for node in nodes:
            node["inputs"][name] = value
    return prompt


def ask(server: str, path: str, body: dict | None = None) -> bytes:
    """An answer of the server; with a body it is a POST."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def finished(server: str, prompt_id: str) -> dict:
    """The server's record of the prompt, once it has run."""
    while True:
        history = json.loads(ask(server, f"/history/{prompt_id}"))
        if prompt_id in history:
            return history[prompt_id]
        time.sleep(0.5)


def refusals(node_errors: dict) -> list[str]:
    """Inputs that the server did not take; it runs the outputs that do not need them."""
    return [
        f"{node['class_type']} (node {key}): {error['message']}: {error['details']}"
        for key, node in node_errors.items()
        for error in node["errors"]
    ]


def failures(record: dict) -> list[str]:
    """What the failed node said."""
    said = []
    for kind, data in record["status"]["messages"]:
        if kind == "execution_error":
            said.append(
                f"{data['node_type']} (node {data['node_id']}): {data['exception_message']}"
            )
        elif kind == "execution_interrupted":
            said.append("The prompt was interrupted.")
    return said


def texts_of(record: dict) -> list[str]:
    """The nodes' warnings and reports."""
    classes = {key: node["class_type"] for key, node in record["prompt"][2].items()}
    return [
        f"{classes.get(key, 'node')} (node {key}): {text}"
        for key, output in record["outputs"].items()
        for text in output.get("text", [])
    ]


def files_of(record: dict) -> list[dict]:
    """All {filename, subfolder, type} that the nodes report: meshes, images, texts."""
    entries = [
        entry
        for output in record["outputs"].values()
        for group in output.values()
        if isinstance(group, list)
        for entry in group
    ]
    return [entry for entry in entries if isinstance(entry, dict) and "filename" in entry]


def fetched(server: str, file: dict, folder: Path) -> Path:
    """The file's place here."""
    query = {key: file[key] for key in ("filename", "subfolder", "type")}
    content = ask(server, "/view?" + urllib.parse.urlencode(query))
    path = folder / Path(file["filename"]).name
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


if __name__ == "__main__":
    raise SystemExit(main())
