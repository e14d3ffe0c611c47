"""Command-line options from config dataclasses: public fields, with help on one paragraph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from ..checks import public_fields

HelpText = str | Callable[[], str | None] | None


def public_options() -> ConstructorRegistry:
    """A context manager in which tyro omits the internal fields of config dataclasses.

    An internal field keeps its value in the default instance. Help texts are the docstrings of the
    fields without their line breaks.
    """
    registry = ConstructorRegistry()
    delegating = False  # while the rule below gets the spec of tyro's own rules

    @registry.struct_rule
    def omit_internal_fields(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal delegating
        if delegating or not is_dataclass(info.type):
            return None
        delegating = True
        try:
            spec = registry.get_struct_spec(info)  # an instance method before tyro 0.9.3
        finally:
            delegating = False
        if not isinstance(spec, StructConstructorSpec):
            return spec
        public = {each.name for each in public_fields(info.type)}
        shown = tuple(
            replace(each, helptext=_joined_lines(each.helptext))
            for each in spec.fields
            if each.name in public
        )
        if len(public) == len(fields(info.type)):
            return replace(spec, fields=shown)

        def instantiate(**values: Any) -> Any:
            if isinstance(info.default, info.type):
                return replace(info.default, **values)
            return info.type(**values)

        return StructConstructorSpec(instantiate, shown)

    return registry


def _joined_lines(helptext: HelpText) -> HelpText:
    """The help text without line breaks; tyro keeps those before indented lines.

    tyro 1.0 finds help texts when it shows them; older versions need strings.
    """
    if callable(helptext):
        return lambda: _joined_lines(helptext())
    return helptext if helptext is None else " ".join(helptext.split())
