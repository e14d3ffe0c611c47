#!/usr/bin/env python3
"""Runs an API prompt on a ComfyUI server and downloads the output files. Needs only Python.

    python docs/api_client.py workflows/api/views_to_mesh.json -o results
    python docs/api_client.py PROMPT --server http://box:8188 --set DeconflictFusion.preset=draft

`--set CLASS.INPUT=VALUE` changes an input of all nodes of a class; values are JSON, else text.
Exit codes: 0 success, 1 a node failed, 2 the server rejected the prompt or did not answer.
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prompt", type=Path, help="a file in ComfyUI's API format")
    parser.add_argument("--server", default="http://127.0.0.1:8188")
    parser.add_argument("-o", "--output", type=Path, default=Path("results"))
    parser.add_argument("--set", action="append", default=[], metavar="CLASS.INPUT=VALUE")
    options = parser.parse_args()
    prompt = json.loads(options.prompt.read_text(encoding="utf-8"))
    try:
        prompt = apply_changes(options.server, prompt, options.set)
        queued = json.loads(request(options.server, "/prompt", {"prompt": prompt}))
        record = wait_until_done(options.server, queued["prompt_id"])
        errors = validation_errors(queued["node_errors"]) + execution_errors(record)
        for message in errors + node_texts(record):
            print(message, file=sys.stderr)
        for file in output_files(record):
            print(download(options.server, file, options.output))
        return 1 if errors else 0
    except urllib.error.HTTPError as error:  # invalid inputs: the body names node and input
        print(f"{options.server} rejected the prompt: {error.read().decode()}", file=sys.stderr)
        return 2
    except urllib.error.URLError as error:
        print(f"No ComfyUI server responds at {options.server}: {error.reason}", file=sys.stderr)
        return 2


def apply_changes(server: str, prompt: dict, changes: list[str]) -> dict:
    """The prompt with the inputs of `--set`."""
    for change in changes:
        path, _, text = change.partition("=")
        kind, _, name = path.partition(".")
        nodes = [node for node in prompt.values() if node["class_type"] == kind]
        if not nodes:
            raise SystemExit(f"--set {change}: the prompt has no {kind}.")
        known = input_names(server, kind)
        if name not in known:
            raise SystemExit(f"--set {change}: {kind} has the inputs {', '.join(known)}.")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        for node in nodes:
            node["inputs"][name] = value
    return prompt


def input_names(server: str, kind: str) -> list[str]:
    """Names of the inputs of a node class, as the server lists them."""
    schema = json.loads(request(server, f"/object_info/{kind}"))[kind]["input"]
    return [name for group in ("required", "optional") for name in schema.get(group, {})]


def request(server: str, path: str, body: dict | None = None) -> bytes:
    """Response of the server to a GET, or to a POST with a body."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    query = urllib.request.Request(server + path, data, headers)
    with urllib.request.urlopen(query, timeout=60) as response:
        return response.read()


def wait_until_done(server: str, prompt_id: str) -> dict:
    """The history entry of the prompt, once it has run."""
    while True:
        history = json.loads(request(server, f"/history/{prompt_id}"))
        if prompt_id in history:
            return history[prompt_id]
        time.sleep(0.5)


def validation_errors(node_errors: dict) -> list[str]:
    """Rejected inputs; the server still runs outputs that do not need them."""
    return [
        f"{node['class_type']} (node {key}): {error['message']}: {error['details']}"
        for key, node in node_errors.items()
        for error in node["errors"]
    ]


def execution_errors(record: dict) -> list[str]:
    """Error of the failed node, or the interruption."""
    errors = []
    for kind, data in record["status"]["messages"]:
        if kind == "execution_error":
            errors.append(
                f"{data['node_type']} (node {data['node_id']}): {data['exception_message']}"
            )
        elif kind == "execution_interrupted":
            errors.append("The prompt was interrupted.")
    return errors


def node_texts(record: dict) -> list[str]:
    """Warnings and reports of the nodes."""
    classes = {key: node["class_type"] for key, node in record["prompt"][2].items()}
    return [
        f"{classes.get(key, 'node')} (node {key}): {text}"
        for key, output in record["outputs"].items()
        for text in output.get("text", [])
    ]


def output_files(record: dict) -> list[dict]:
    """{filename, subfolder, type} of all output files: meshes, images, texts."""
    entries = [
        entry
        for output in record["outputs"].values()
        for group in output.values()
        if isinstance(group, list)
        for entry in group
    ]
    return [entry for entry in entries if isinstance(entry, dict) and "filename" in entry]


def download(server: str, file: dict, folder: Path) -> Path:
    """Downloads an output file; returns its local path."""
    query = {key: file[key] for key in ("filename", "subfolder", "type")}
    content = request(server, "/view?" + urllib.parse.urlencode(query))
    path = folder / Path(file["filename"]).name
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


if __name__ == "__main__":
    raise SystemExit(main())
