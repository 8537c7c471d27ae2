"""The subcommands of `edgegpt`, one module each, imported on use."""
