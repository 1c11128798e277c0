"""jaxseg: learning to segment images in JAX."""

__version__ = "0.1.0"
