"""Loss functions of batches: one value per example."""

from jaxseg.losses._superpixel import compactness as compactness
from jaxseg.losses._superpixel import reconstruction as reconstruction
