"""Invariant information clustering (Ji, Henriques, Vedaldi, ICCV 2019): classes without labels.

A network sees an image and other views of it, and is trained so that the classes of one tell as
much as can be of those of the other, `losses.mutual_information`. A network has several heads (the
classes, and more of them for over-clustering), and each head several sub-heads that begin apart.
Methods for two heads of one network share its tree, so that they are trained in turns as phases.

A sub-head is chosen by its information in training, never by labels: the model state keeps a
running mean of it beside the network's batch statistics.
"""

from jaxseg.methods._iic_clustering import clustering
from jaxseg.methods._iic_fine_tuning import fine_tuning
from jaxseg.methods._iic_segmentation import segmentation
from jaxseg.methods._iic_views import Inputs, network_inputs, standardised

__all__ = [
    "Inputs",
    "clustering",
    "fine_tuning",
    "network_inputs",
    "segmentation",
    "standardised",
]
