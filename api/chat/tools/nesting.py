"""How deep a JSON text is nested, character by character: what stands in its strings doesn't count."""


class Nesting:
    """Reads a text that comes in pieces.

    Attributes:
        depth: objects and arrays that are open.
    """

    def __init__(self) -> None:
        self.depth = 0
        self._in_string = False
        self._escaped = False

    def read(self, character: str) -> bool:
        """Take one more. Returns whether it closes an object or an array."""
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = False
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self.depth += 1
        elif character in "}]":
            self.depth -= 1
            return True
        return False
