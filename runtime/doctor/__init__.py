"""What is installed here, what of it works, and what mends the rest.

`probe` asks the machine, `trial` what could crash, and `report` gathers the answers; `diagnosis`
and `fit` judge them. This file imports nothing, so that a trial starts fast.
"""
