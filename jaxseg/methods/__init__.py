"""One module per paper; each fills `types.Method`."""

from jaxseg.methods import ssn as ssn
