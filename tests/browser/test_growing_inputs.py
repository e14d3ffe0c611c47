"""Inputs that grow: connecting one adds the next, and the page queues what it shows."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.host]

BUILD = """count => {
    const graph = window.app.graph
    graph.clear()
    const add = (type, title, x, y) => {
        const node = window.LiteGraph.createNode(type)
        node.pos = [x, y]
        graph.add(node)
        node.title = title
        return node
    }
    const join = add('JoinCameras', 'join', 700, 100)
    for (let index = 0; index < count; index++) {
        const orbit = add('OrbitCameras', `orbit ${index}`, 100, 100 + 500 * index)
        const free = join.inputs.findIndex(socket => socket.link == null)
        orbit.connect(orbit.findOutputSlot('cameras'), join, free)
    }
}"""
INPUTS = """() => window.app.graph.nodes.find(node => node.title === 'join').inputs
    .map(socket => [socket.name, socket.link != null])"""


def test_joined_cameras_grow_in_the_page(page):
    page.tab.evaluate(BUILD, 4)
    page.tab.wait_for_timeout(500)
    sockets = page.tab.evaluate(INPUTS)
    connected = [name for name, has_link in sockets if has_link]
    assert connected == [f"cameras.cameras_{index}" for index in range(4)]
    assert len(sockets) > 4  # the next one is free
    prompt = page.prompt()
    (join,) = [node for node in prompt.values() if node["class_type"] == "JoinCameras"]
    assert set(join["inputs"]) == set(connected)
    graph = page.graph()
    page.tab.evaluate("graph => window.app.loadGraphData(graph)", graph)
    page.tab.wait_for_timeout(1000)
    assert page.prompt() == prompt
