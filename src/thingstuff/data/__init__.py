"""Reading COCO panoptic data, augmenting it, making it."""
