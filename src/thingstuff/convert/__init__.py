"""From whatever labels people have to COCO panoptic, and back: a module per foreign format."""
