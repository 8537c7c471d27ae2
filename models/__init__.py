"""The zoo: presets as TOML, read by `edgegpt.presets`, and the trained model of this repository."""
