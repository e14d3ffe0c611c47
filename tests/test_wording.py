"""Messages name settings as the interface that shows them does."""

from __future__ import annotations

import threading

from nova3d_core.wording import by_interface, interface, setting


def test_settings_are_named_as_options_or_inputs():
    assert setting("texture_size", "64") == "--texture-size 64"
    assert setting("align") == "--align"
    with interface("nodes"):
        assert setting("texture_size", "64") == "the input texture_size (64)"
        assert by_interface("option", "input") == "input"
        with interface("command line"):
            assert setting("align") == "--align"
        assert setting("align") == "the input align"
    assert by_interface("option", "input") == "option"


def test_interface_ends_with_an_error_and_stays_in_its_thread():
    found = []
    try:
        with interface("nodes"):
            thread = threading.Thread(target=lambda: found.append(setting("align")))
            thread.start()
            thread.join()
            raise ValueError
    except ValueError:
        found.append(setting("align"))
    assert found == ["--align", "--align"]
