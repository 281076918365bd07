"""The papers that steps cite, by the form in which they do."""

from collections.abc import Iterable, Mapping

PAPERS: Mapping[str, str] = {
    "Carion et al. 2020": "End-to-End Object Detection with Transformers, ECCV 2020, arXiv:2005.12872",
    "Girshick 2015": "Fast R-CNN, ICCV 2015, arXiv:1504.08083",
    "He et al. 2016": "Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385",
    "He et al. 2017": "Mask R-CNN, ICCV 2017, arXiv:1703.06870",
    "Kirillov et al. 2019a": "Panoptic Segmentation, CVPR 2019, arXiv:1801.00868",
    "Kirillov et al. 2019b": "Panoptic Feature Pyramid Networks, CVPR 2019, arXiv:1901.02446",
    "Law and Deng 2018": "CornerNet: Detecting Objects as Paired Keypoints, ECCV 2018, arXiv:1808.01244",
    "Li et al. 2021": "Fully Convolutional Networks for Panoptic Segmentation, CVPR 2021, arXiv:2012.00720",
    "Lin et al. 2017a": "Feature Pyramid Networks for Object Detection, CVPR 2017, arXiv:1612.03144",
    "Lin et al. 2017b": "Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002",
    "Ren et al. 2015": "Faster R-CNN, NeurIPS 2015, arXiv:1506.01497",
    "Wang et al. 2020": "SOLOv2: Dynamic and Fast Instance Segmentation, NeurIPS 2020, arXiv:2003.10152",
}
"""Short form -> title, where it appeared, arXiv number."""


def cited(texts: Iterable[str]) -> dict[str, str]:
    """Return those of the papers that some texts cite, by their short form."""
    together = "\n".join(texts)
    return {short: full for short, full in PAPERS.items() if short in together}
