"""Loss functions of batches, one value per example; weights of classes and pixels for them."""

from jaxseg.losses._segmentation import cross_entropy as cross_entropy
from jaxseg.losses._superpixel import compactness as compactness
from jaxseg.losses._superpixel import reconstruction as reconstruction
from jaxseg.losses._weights import median_frequency_weights as median_frequency_weights
