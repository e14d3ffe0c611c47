"""Drives ComfyUI's front end as a user would, through Playwright."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import PIL.Image

TIMEOUT_MS = 120_000
"""WebGL without a GPU is slow, and slower on a busy machine."""
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
WIDGET = """([type, name]) => {
    const node = window.app.graph.nodes.find(node => node.type === type)
    const widget = node.widgets.find(widget => widget.name === name)
    const middle = [node.pos[0] + node.size[0] / 2, node.pos[1] + (widget.last_y ?? widget.y) + 10]
    const at = window.app.canvas.ds.convertOffsetToCanvas(middle)
    const corner = window.app.canvas.canvas.getBoundingClientRect()
    return [corner.x + at[0], corner.y + at[1]]
}"""
NOTE = """() => {
    const node = window.app.graph.nodes.find(node => node.type === 'MarkdownNote')
    const area = node.widgets[0].element
    const text = area.querySelector('.tiptap') ?? area
    const parts = [...text.children].map(part => part.offsetTop + part.offsetHeight)
    return [Math.max(...parts), area.clientHeight]
}"""
CONNECT = """links => {
    const nodes = window.app.graph.nodes
    const find = title => nodes.find(node => node.title === title)
    for (const [source, output, target, input] of links) {
        const from = find(source), to = find(target)
        from.connect(from.findOutputSlot(output), to, to.findInputSlot(input))
    }
}"""
SET_INSIDE = """settings => {
    for (const host of window.app.graph.nodes.filter(node => node.isSubgraphNode?.()))
        for (const node of host.subgraph.nodes)
            for (const [name, value] of Object.entries(settings[node.type] ?? {})) {
                const outer = host.widgets.find(widget => widget.name === name)
                const widget = outer ?? node.widgets.find(widget => widget.name === name)
                widget.value = value
            }
}"""
CUT = """types => {
    const context = window.app.canvas.canvas.getContext('2d')
    const measure = (text, px) => {
        context.font = `${px}px ${window.LiteGraph.NODE_FONT ?? 'Arial'}`
        return context.measureText(String(text ?? '')).width
    }
    const label = socket => socket ? socket.label ?? socket.localized_name ?? socket.name : ''
    const cut = []
    for (const type of types) {
        const node = window.LiteGraph.createNode(type), width = node.size[0]
        const compare = (what, needed) => needed > width && cut.push([type, what, needed, width])
        compare(node.title, measure(node.title, 14) + 38)
        const inputs = node.inputs.filter(socket => !socket.widget)
        for (let row = 0; row < Math.max(inputs.length, node.outputs.length); row++) {
            const pair = [label(inputs[row]), label(node.outputs[row])]
            compare(pair.join(' | '), measure(pair[0], 12) + measure(pair[1], 12) + 50)
        }
        for (const widget of node.widgets ?? []) {
            if (!['number', 'combo', 'toggle', 'text'].includes(widget.type)) continue
            const name = widget.label ?? widget.name
            const value = widget.type === 'number'
                ? Number(widget.value).toFixed(widget.options.precision ?? 3) : widget.value
            compare(`${name}: ${value}`, measure(name, 12) + measure(value, 12) + 80)
        }
    }
    return cut
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
        tab.set_default_timeout(TIMEOUT_MS)
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
        card.wait_for(state="attached")
        card.scroll_into_view_if_needed()  # images of cards out of sight are not loaded
        card.locator("img").first.wait_for()
        self.shot(f"templates-{name}")
        card.click()
        self.tab.wait_for_function(
            "() => window.app.graph.nodes.some(node => node.type === 'MarkdownNote')"
        )
        card.wait_for(state="hidden")

    def close_tour(self) -> None:
        """Closes what the front end shows once: the template browser, the tour of apps."""
        self.tab.wait_for_timeout(1000)
        skip = self.tab.get_by_role("button", name="Skip", exact=True)
        if skip.count():
            skip.first.click()
        else:
            self.tab.keyboard.press("Escape")
        self.tab.wait_for_timeout(500)

    def cards(self, module: str) -> list[str]:
        """Names of the templates of a pack, in the order of their cards."""
        self.command("Comfy.BrowseTemplates")
        self.tab.get_by_text(module, exact=True).last.click(timeout=120_000)
        card = '[data-testid^="template-workflow-"]'
        self.tab.locator(card).first.wait_for()
        self.tab.wait_for_timeout(2000)
        names = "cards => cards.map(card => card.dataset.testid.slice('template-workflow-'.length))"
        return self.tab.eval_on_selector_all(card, names)

    def graph(self) -> dict[str, Any]:
        """The current graph as the front end saves it, with the sizes that it gave the nodes."""
        return self.tab.evaluate("() => window.app.graph.serialize()")

    def zoom(self) -> float:
        return self.tab.evaluate("() => window.app.canvas.ds.scale")

    def note_heights(self) -> tuple[float, float]:
        """Height of the note's text and of the area that shows it, in pixels at zoom 1."""
        return tuple(self.tab.evaluate(NOTE))

    def upload_by_mouse(self, kind: str, path: Path) -> None:
        """Presses a node's upload button and chooses a file."""
        with self.tab.expect_file_chooser() as chooser:
            self.tab.mouse.click(*self.tab.evaluate(WIDGET, [kind, "upload"]))
        chooser.value.set_files(path)
        self.tab.wait_for_function(
            "([type, name]) => window.app.graph.nodes.find(node => node.type === type)"
            ".widgets[0].value.includes(name)",
            arg=[kind, path.stem],
        )

    def choose_by_mouse(self, kind: str, name: str, value: str) -> None:
        """Opens a list of choices and selects one."""
        self.tab.mouse.click(*self.tab.evaluate(WIDGET, [kind, name]))
        self.tab.locator(".litecontextmenu .litemenu-entry", has_text=value).first.click()

    def search(self, words: str) -> list[str]:
        """Texts of the results of the node search, best first; the search stays open."""
        box = self.tab.get_by_placeholder("Add a node...")
        if not box.count():
            self.command("Workspace.SearchBox.Toggle")
        box.fill(words)
        self.tab.wait_for_timeout(1200)
        return self.tab.locator('[data-testid="result-item"]').all_inner_texts()

    def add_node(self, words: str, title: str) -> None:
        """Adds a result of the node search by mouse."""
        self.search(words)
        self.tab.locator('[data-testid="result-item"]', has_text=title).first.click()
        self.tab.get_by_placeholder("Add a node...").wait_for(state="hidden")
        self.tab.wait_for_function(
            "title => window.app.graph.nodes.some(node => node.title === title)", arg=title
        )
        self.tab.mouse.click(960, 700)  # places a node that follows the mouse
        self.tab.wait_for_timeout(500)

    def connect(self, links: list[tuple[str, str, str, str]]) -> None:
        """Connects nodes: (source title, output, target title, input)."""
        self.tab.evaluate(CONNECT, [list(link) for link in links])

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
        return self.wait_for_end(seconds)

    def wait_for_end(self, seconds: float = 240.0) -> dict[str, Any]:
        """Waits for the end of a run; returns the received messages."""
        self.tab.wait_for_function("() => window.messages.ended", timeout=seconds * 1000)
        self.tab.wait_for_timeout(1000)
        return self.tab.evaluate("() => window.messages")

    def set_locale(self, name: str) -> None:
        """Switches the language; the page is loaded again."""
        change = "name => window.app.extensionManager.setting.set('Comfy.Locale', name)"
        self.tab.evaluate(change, name)
        self.open()
        self.tab.wait_for_timeout(2000)

    def cut_texts(self, types: list[str]) -> list[list[Any]]:
        """Titles, socket names and widget values that are wider than a new node of their class."""
        return self.tab.evaluate(CUT, types)

    def set_blueprint_inputs(self, settings: dict[str, dict[str, Any]]) -> None:
        """Sets widgets of the nodes inside the blueprints, and those that show them outside."""
        self.tab.evaluate(SET_INSIDE, settings)

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
