"""Find out what is installed here, which parts work, and what repairs the others.

`probe` asks the machine, `trial` runs what could crash, and `report` gathers the answers.
`diagnosis` and `fit` judge them. This file imports nothing, so that a trial starts fast.
"""
