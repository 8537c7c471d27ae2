"""The environment that compiles and runs a template within the bounds of `meter`."""

from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from jinja2 import Undefined, pass_context
from jinja2.environment import Template
from jinja2.ext import LoopControlExtension
from jinja2.nodes import Name
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .language import GUARDS, Generation, Guarding, as_text, walked
from .library import FILTERS, FUNCTIONS, METHODS, TESTS
from .meter import ITEM, MeteredContext, RefusedError, extent

__all__ = ["Sandbox"]

MOST_BITS = 4096  # of a whole number


@pass_context
def _output(context: Context, value: Any) -> str:
    assert isinstance(context, MeteredContext)
    text = as_text(context.meter, value)
    context.meter.pay(extent(text))
    return text


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment; the settings of white space are those of transformers."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)
    context_class = MeteredContext

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Generation, LoopControlExtension],
            optimized=False,  # or constants would be folded, unpaid, while a template is compiled
            finalize=_output,
            cache_size=0,
        )
        self.filters = dict(FILTERS)
        self.tests = dict(TESTS)
        self.globals = dict(FUNCTIONS)
        for guard in GUARDS:
            setattr(self, guard.__name__, guard)

    def template(self, text: str) -> tuple[Template, set[str]]:
        """Compile a template; return the names it reads, too. It may raise any exception."""
        tree = self.parse(text)
        names = {node.name for node in tree.find_all(Name) if node.ctx == "load"}
        return self.from_string(Guarding().visit(tree)), names

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call what a template may call, and let it pay."""
        assert isinstance(__context, MeteredContext)
        meter = __context.meter
        meter.tick()
        if isinstance(__obj, Macro | Undefined):
            return super().call(__context, __obj, *args, **kwargs)
        for name in ("_loop_vars", "_block_vars"):  # for functions that want the context
            kwargs.pop(name, None)
        if isinstance(__obj, FunctionType):
            if __obj in GUARDS or __obj in FUNCTIONS.values():
                return __obj(meter, *args, **kwargs)
        elif isinstance(__obj, LoopContext):
            return __obj(*(walked(meter, part) for part in args))
        elif isinstance(__obj, BuiltinMethodType):
            price = METHODS.get(type(__obj.__self__), {}).get(__obj.__name__)
            if price is not None:
                meter.pay(price(__obj.__self__, *args, **kwargs))
                return __obj(*args, **kwargs)
        elif isinstance(__obj, MethodType) and isinstance(__obj.__self__, LoopContext):
            return __obj(*args, **kwargs)
        name = getattr(__obj, "__name__", type(__obj).__name__)
        raise RefusedError(f"it calls {name!r:.60}, which chat templates may not call here")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute with numbers, add texts and lists, and repeat them."""
        assert isinstance(context, MeteredContext)
        context.meter.tick()
        if isinstance(left, Undefined) or isinstance(right, Undefined):
            return super().call_binop(context, operator, left, right)
        if isinstance(left, int | float) and isinstance(right, int | float):
            _check_numbers(operator, left, right)
            return super().call_binop(context, operator, left, right)
        kinds = {type(left), type(right)}
        if operator == "+" and kinds in ({str}, {list}, {tuple}):
            return context.meter.keep(left + right)
        if operator == "*" and int in kinds and kinds & {str, list, tuple}:
            times, repeated = (left, right) if isinstance(left, int) else (right, left)
            context.meter.pay((extent(repeated) - ITEM) * max(times, 0))
            return context.meter.keep(repeated * times)
        names = f"{type(left).__name__} {operator} {type(right).__name__}"
        raise RefusedError(f"it computes {names}, which chat templates may not here")


def _check_numbers(operator: str, left: float, right: float) -> None:
    bits = [number.bit_length() for number in (left, right) if isinstance(number, int)]
    if operator == "**" and isinstance(right, int) and right > 0:
        bits.append(right * max(bits))
    if max(bits, default=0) > MOST_BITS:
        raise RefusedError("it computes numbers that are too large")
