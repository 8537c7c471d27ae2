"""The inference engines: `base` defines their interface, `choice` picks the one for a bundle.

Each engine has a folder or file of its own, which imports the vendor's package only when used.
"""
