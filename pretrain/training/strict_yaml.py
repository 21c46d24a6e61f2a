"""YAML as people mean it: 1e-4 is a number, a key stands once, and every mistake is one line."""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.nodes import MappingNode, ScalarNode


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's floats, and without duplicate keys."""

    def compose_mapping_node(self, anchor: str | None) -> MappingNode:
        """Refuse a key that stands twice, of which PyYAML would take the last."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, ScalarNode) and (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add((key.tag, key.value) if isinstance(key, ScalarNode) else id(key))
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)

IMPOSSIBLE = (ValueError, ArithmeticError, LookupError, AttributeError, TypeError)
"""What PyYAML raises for scalars like `2026-13-45`, `!!int ''` and `!!timestamp x`."""


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ValueError: it is not YAML, names a key twice or is nested too deeply; the message is one line.

    >>> parse_yaml("lr: 1e-4")
    {'lr': 0.0001}
    >>> parse_yaml("a: 1\\na: 2")
    Traceback (most recent call last):
    ValueError: not YAML: the key 'a' is there twice (line 2)
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f" (line {mark.line + 1})"
        raise ValueError(f"not YAML: {error.problem or error.context}{where}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())[:200]}") from error
    except RecursionError:
        raise ValueError("not YAML that can be read: it is nested too deeply") from None
    except IMPOSSIBLE as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())[:200]}") from error
