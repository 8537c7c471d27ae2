"""Numbers of things in messages: 1 step, 2,000 steps."""

__all__ = ["quantity"]


def quantity(number: float, thing: str, things: str = "") -> str:
    """Return a number and a noun; its plural is `things`, or has an s."""
    written = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{written} {thing if written == '1' else things or f'{thing}s'}"
