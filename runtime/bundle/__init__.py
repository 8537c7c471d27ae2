"""A bundle on disk: manifest, golden vectors, graphs and weights, and the packed form."""
