"""Loss functions of batches, one value per example; weights of classes and pixels for them."""

from jaxseg.losses._detection import box_regression as box_regression
from jaxseg.losses._detection import mask_binary_cross_entropy as mask_binary_cross_entropy
from jaxseg.losses._detection import sampled_binary_cross_entropy as sampled_binary_cross_entropy
from jaxseg.losses._embedding import (
    binary_cross_entropy_from_log as binary_cross_entropy_from_log,
)
from jaxseg.losses._embedding import instance_embedding as instance_embedding
from jaxseg.losses._lovasz import lovasz as lovasz
from jaxseg.losses._mutual_information import mutual_information as mutual_information
from jaxseg.losses._mutual_information import mutual_information_2d as mutual_information_2d
from jaxseg.losses._overlap import dice as dice
from jaxseg.losses._overlap import jaccard as jaccard
from jaxseg.losses._overlap import tversky as tversky
from jaxseg.losses._segmentation import cross_entropy as cross_entropy
from jaxseg.losses._segmentation import focal as focal
from jaxseg.losses._segmentation import ohem_cross_entropy as ohem_cross_entropy
from jaxseg.losses._super_resolution import feature_affinity as feature_affinity
from jaxseg.losses._superpixel import compactness as compactness
from jaxseg.losses._superpixel import reconstruction as reconstruction
from jaxseg.losses._weight_map import unet_weight_map as unet_weight_map
from jaxseg.losses._weights import effective_number_weights as effective_number_weights
from jaxseg.losses._weights import inverse_log_weights as inverse_log_weights
from jaxseg.losses._weights import median_frequency_weights as median_frequency_weights
