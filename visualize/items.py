"""The parts of a layered layout: items that have places in layers, and links between them."""

from __future__ import annotations


class Link:
    """A piece of an edge, from an item to one of the next layer."""

    __slots__ = ("end", "port", "start", "turn")

    def __init__(self, start: Item, end: Item, turn: float = 0.0) -> None:
        self.start = start
        self.end = end
        self.turn = turn  # of an ordered box: a fraction of a place, by which operand it is
        self.port = 0.0  # how far from the middle of `end` it arrives
        start.after.append(self)
        end.before.append(self)


class Item:
    """Something that has a place in a layer: a box, a label, or a bend of a trunk."""

    __slots__ = ("across", "after", "along", "before", "kind", "layer", "place", "y")

    def __init__(self, kind: str, layer: int, along: float, across: float) -> None:
        self.kind = kind
        self.layer = layer
        self.along = along
        self.across = across
        self.place = 0  # in its layer
        self.y = 0.0  # of its middle
        self.before: list[Link] = []
        self.after: list[Link] = []


Layers = list[list[Item]]
