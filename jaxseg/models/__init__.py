"""Networks, built from sizes alone, as pairs of pure functions (`types.Network`)."""

from jaxseg.models import ssn as ssn
from jaxseg.models.network import network as network
