"""The parts of Panoptic FPN's Mask R-CNN, torchvision's, by its config."""

from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from thingstuff.models.panoptic_fpn_config import PanopticFPNConfig

LEVELS = (2, 3, 4, 5, 6)
"""Levels with anchors; boxes are pooled from all but the last."""
BOX_CELLS = 7
"""Cells along a box that the box head pools; the mask head pools twice as many and gives four times as many."""


def proposal_network(config: PanopticFPNConfig) -> RegionProposalNetwork:
    """Build torchvision's parts of Faster R-CNN's first stage, with the thresholds of Ren et al. 2015."""
    sizes = tuple((size,) for size in config.anchor_sizes)
    # Its number per level would depend on the mode: it lets pass what was chosen before.
    per_level = max(config.proposals_learned, config.proposals_predicted)
    return RegionProposalNetwork(
        AnchorGenerator(sizes, (config.anchor_ratios,) * len(sizes)),
        RPNHead(config.fpn_channels, len(config.anchor_ratios)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=config.anchor_samples,
        positive_fraction=0.5,
        pre_nms_top_n={"training": per_level, "testing": per_level},
        post_nms_top_n={"training": config.proposals, "testing": config.proposals},
        nms_thresh=config.proposal_overlap,
    )


def roi_heads(config: PanopticFPNConfig, rows: int) -> RoIHeads:
    """Build torchvision's parts of Mask R-CNN's second stage; rows are the classes and, first, the background."""
    inputs, width = config.fpn_channels, config.mask_channels
    names = [str(level) for level in LEVELS[:-1]]
    pools = [MultiScaleRoIAlign(names, n, 2, canonical_scale=config.canonical_size) for n in (BOX_CELLS, 2 * BOX_CELLS)]
    boxes, masks = FastRCNNPredictor(config.box_channels, rows), MaskRCNNPredictor(width, width, rows)
    # Fast R-CNN's deviations (Girshick 2015, section 2.3): torchvision's own begin with losses of many times ln 2.
    for layer, deviation in ((boxes.cls_score, 0.01), (boxes.bbox_pred, 0.001), (masks.mask_fcn_logits, 0.001)):
        nn.init.normal_(layer.weight, std=deviation)
        nn.init.zeros_(layer.bias)
    return RoIHeads(
        box_roi_pool=pools[0],
        box_head=TwoMLPHead(inputs * BOX_CELLS**2, config.box_channels),
        box_predictor=boxes,
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=config.box_samples,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=config.detection_score,
        nms_thresh=config.detection_overlap,
        detections_per_img=config.detections,
        mask_roi_pool=pools[1],
        mask_head=MaskRCNNHeads(inputs, (width,) * config.mask_convs, 1),
        mask_predictor=masks,
    )
