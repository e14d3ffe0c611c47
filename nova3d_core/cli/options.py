"""Which fields of the config dataclasses become command-line options."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from ..checks import public_fields


def public_options() -> ConstructorRegistry:
    """Rules for tyro that leave out the internal fields of config dataclasses; a context manager.

    An internal field keeps the value of the default instance that it belongs to.
    """
    registry = ConstructorRegistry()
    inner = False  # inside the call below, which asks all rules again

    @registry.struct_rule
    def leave_out_internal(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal inner
        if inner or not is_dataclass(info.type):
            return None
        public = {each.name for each in public_fields(info.type)}
        if len(public) == len(fields(info.type)):
            return None
        inner = True
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            inner = False

        def instantiate(**values):
            if isinstance(info.default, info.type):
                return replace(info.default, **values)
            return info.type(**values)

        shown = tuple(each for each in spec.fields if each.name in public)
        return StructConstructorSpec(instantiate, shown)

    return registry
