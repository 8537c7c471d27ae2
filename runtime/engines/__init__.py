"""The inference engines: `base` says what each offers, `choice` which one runs a bundle.

One folder or file an engine; what a vendor brings is imported inside it, on use.
"""
