"""Drives ComfyUI's front end as a user would, through Playwright."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import PIL.Image

READY = "() => window.app?.extensionManager?.command && window.app.graph && window.app.canvas"
LISTEN = """() => {
    window.messages = {progress: [], previews: 0, errors: [], ended: null}
    const on = (kind, act) => window.app.api.addEventListener(kind, act)
    on('progress', event => window.messages.progress.push(event.detail))
    on('b_preview', () => window.messages.previews++)
    on('execution_error', event => window.messages.errors.push(event.detail.exception_message))
    for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
        on(kind, () => window.messages.ended = kind)
}"""
SET = """([type, name, value]) => {
    for (const node of window.app.graph.nodes.filter(node => node.type === type)) {
        const widget = node.widgets.find(widget => widget.name === name)
        widget.value = value
        widget.callback?.(value)
    }
}"""
NODES = """() => window.app.graph.nodes.map(node => ({
    id: String(node.id), type: node.type, title: node.title,
    images: window.app.nodeOutputs?.[node.id]?.images?.length ?? 0,
    red: Boolean(node.has_errors), known: node.type in window.LiteGraph.registered_node_types,
    text: (node.widgets ?? []).map(widget => String(widget.value ?? '')).join(' '),
}))"""
TITLE = """type => {
    const node = window.app.graph.nodes.find(node => node.type === type)
    const at = window.app.canvas.ds.convertOffsetToCanvas([node.pos[0] + 60, node.pos[1] - 15])
    const corner = window.app.canvas.canvas.getBoundingClientRect()
    return [corner.x + at[0], corner.y + at[1]]
}"""
TYPES = """types => types.map(type => {
    const made = window.LiteGraph.createNode(type)
    return [made.title, ...made.outputs.map(socket => socket.localized_name ?? socket.label)]
})"""


class Page:
    """One browser tab."""

    def __init__(self, tab: Any, url: str, shots: Path):
        self.tab = tab
        self.url = url
        self._shots = shots

    def open(self) -> None:
        """Loads the page and waits until it is ready."""
        self.tab.goto(self.url)
        self.tab.wait_for_function(READY, timeout=120_000)
        self.tab.wait_for_timeout(1500)  # the first visit opens the template browser
        self.tab.evaluate(LISTEN)

    def command(self, name: str) -> None:
        """Executes a command of a menu entry or key."""
        self.tab.evaluate("name => window.app.extensionManager.command.execute(name)", name)

    def load_template(self, module: str, name: str) -> None:
        """Opens a workflow from the template browser by mouse."""
        self.command("Comfy.BrowseTemplates")
        self.tab.get_by_text(module, exact=True).last.click(timeout=120_000)
        card = self.tab.locator(f'[data-testid="template-workflow-{name}"]')
        card.locator("img").first.wait_for()
        self.shot(f"templates-{name}")
        card.click()
        self.tab.wait_for_function(
            "() => window.app.graph.nodes.some(node => node.type === 'MarkdownNote')"
        )
        card.wait_for(state="hidden")

    def nodes(self) -> list[dict[str, Any]]:
        """Nodes on the canvas."""
        return self.tab.evaluate(NODES)

    def prompt(self) -> dict[str, dict[str, Any]]:
        """API prompt of the current graph."""
        return self.tab.evaluate("async () => (await window.app.graphToPrompt()).output")

    def set_input(self, kind: str, name: str, value: Any) -> None:
        """Sets a widget of all nodes of a class."""
        self.tab.evaluate(SET, [kind, name, value])

    def run(self, seconds: float = 240.0) -> dict[str, Any]:
        """Presses Run and waits for the end; returns the received messages."""
        self.tab.locator('[data-testid="queue-button"]').first.click()
        self.tab.wait_for_function("() => window.messages.ended", timeout=seconds * 1000)
        self.tab.wait_for_timeout(1000)
        return self.tab.evaluate("() => window.messages")

    def translated(self, types: list[str]) -> list[list[str]]:
        """Displayed title and output names of new nodes."""
        return self.tab.evaluate(TYPES, types)

    def open_help(self, kind: str) -> None:
        """Selects a node and presses its help button."""
        self.fit()
        self.tab.mouse.click(*self.tab.evaluate(TITLE, kind))
        self.tab.locator('[data-testid="info-button"]').first.click()

    def fit(self) -> None:
        """Fits the graph into the view."""
        self.command("Comfy.Canvas.FitView")
        self.tab.wait_for_timeout(1500)

    def shot(self, name: str) -> None:
        """Saves a screenshot."""
        self._shots.mkdir(parents=True, exist_ok=True)
        self.tab.screenshot(path=self._shots / f"{name}.png")

    def viewer(self) -> Any:
        """Canvas of the 3D viewer."""
        selector = "canvas:not([id]):not([class*=minimap]):not([data-testid*=minimap])"
        return self.tab.locator(selector).last

    def viewer_image(self) -> PIL.Image.Image:
        """Central part of the 3D viewer, without its buttons, once the image is stable."""
        previous = b""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            box = self.viewer().bounding_box()
            width, height = box["width"] / 2, box["height"] / 2
            middle = {"x": box["x"] + width / 2, "y": box["y"] + height / 2}
            content = self.tab.screenshot(clip={**middle, "width": width, "height": height})
            if content == previous:
                return PIL.Image.open(io.BytesIO(content)).convert("RGB")
            previous = content
            self.tab.wait_for_timeout(1000)
        raise TimeoutError("the image of the 3D viewer did not become stable")

    def drag_viewer(self, right_px: int) -> None:
        """Rotates the model in the 3D viewer by dragging."""
        box = self.viewer().bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.tab.mouse.move(x, y)
        self.tab.mouse.down()
        for step in range(1, 6):
            self.tab.mouse.move(x + right_px * step / 5, y)
        self.tab.mouse.up()
