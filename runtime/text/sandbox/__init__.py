"""jinja2 for templates that nobody vouches for: they reach nothing, and they always come to an end.

jinja2's own sandbox keeps a template away from Python's internals, but not from `'a' * 10**10`, nor
from loops in loops in loops. Here the language is a closed list: of statements and expressions
(`language`), of filters, tests and functions, and of the methods of texts, lists and tables
(`library`). What is not listed is refused. Whatever makes a value pays for its size, before it is
made if it could grow. So three bounds hold (`meter`): the size of one value, the size of all values
that a rendering makes, and its time.

It needs jinja2, the extra `chat`.
"""
