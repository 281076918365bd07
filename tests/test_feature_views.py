"""Feature maps made visible: principal components as colour, energy."""

import numpy as np
import pytest
import torch

from thingstuff.feature_views import energy, feature_views, picture_cells, principal_colours
from thingstuff.structures import Frame


def frame(height: int, width: int, size: tuple[int, int] | None = None) -> Frame:
    return Frame((height, width), size or (height, width), size or (height, width))


@pytest.mark.parametrize(("channels", "height", "width"), [(6, 9, 11), (80, 12, 13), (400, 10, 12), (90, 60, 70)])
def test_colours_are_the_principal_components(channels, height, width):
    generator = torch.Generator().manual_seed(channels)
    smooth = torch.randn(channels, 4, generator=generator) @ torch.randn(4, height * width, generator=generator)
    strengths = torch.tensor([9.0, 5.0, 2.0])
    axes, _ = torch.linalg.qr(torch.randn(channels, 3, generator=generator))
    scores = torch.randn(3, height * width, generator=generator) * strengths[:, None]
    features = (axes @ scores + 0.01 * smooth + 3).view(channels, height, width)
    colours = principal_colours(features, frame(height, width))
    centred = (features.flatten(1) - features.flatten(1).mean(1, keepdim=True)).double()
    plain = torch.linalg.svd(centred, full_matrices=False)[2][:3].view(3, height, width).numpy()
    for channel in range(3):
        ours, theirs = colours[..., channel].astype(float).ravel(), plain[channel].ravel()
        assert abs(np.corrcoef(ours, theirs)[0, 1]) > 0.97
    assert (colours == principal_colours(features, frame(height, width))).all()


def test_padding_has_no_say():
    features = torch.randn(8, 6, 10, generator=torch.Generator().manual_seed(0))
    padded = features.clone()
    padded[:, :, 5:] = 1000
    half = frame(24, 40, (24, 20))
    assert picture_cells(half, (6, 10)) == (6, 5)
    assert (principal_colours(features, half)[:, :5] == principal_colours(padded, half)[:, :5]).all()


@pytest.mark.parametrize("shape", [(128, 1, 1), (2, 3, 3), (1, 4, 4), (70, 9, 9)])
def test_few_channels_or_cells_and_maps_without_a_difference(shape):
    assert principal_colours(torch.randn(shape), frame(*shape[1:])).shape == (*shape[1:], 3)
    assert not principal_colours(torch.ones(shape), frame(*shape[1:])).any()


@pytest.mark.parametrize("factor", [1e20, 1e38, 1e-30])
def test_features_of_any_size_look_alike(factor):
    features = torch.rand(80, 9, 11, generator=torch.Generator().manual_seed(0))
    expected = principal_colours(features, frame(9, 11)).astype(int)
    assert np.abs(principal_colours(features * factor, frame(9, 11)).astype(int) - expected).max() <= 1
    assert torch.allclose(energy(features * factor) / factor, energy(features))


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
def test_cells_that_are_not_finite_are_black_and_told(lost):
    features = torch.randn(80, 9, 11, generator=torch.Generator().manual_seed(0))
    clean = principal_colours(features, frame(9, 11))
    features[3, 2, 4] = features[:, 5, 6] = lost
    colours, strength = feature_views("Res2", features, frame(9, 11))
    black = ~colours.pixels.any(-1)
    assert black[2, 4]
    assert black[5, 6]
    assert black.sum() <= 3, "the others keep their colours"
    assert np.corrcoef(colours.pixels[~black].ravel(), clean[~black].ravel())[0, 1] > 0.9
    assert "Not finite: 2 of 99 cells" in colours.caption
    assert (~np.isfinite(strength.values)).sum() == 2
    everything, _ = feature_views("Res2", torch.full((80, 9, 11), lost), frame(9, 11))
    assert not everything.pixels.any()
    assert "Not finite" not in feature_views("Res2", torch.ones(80, 9, 11), frame(9, 11))[0].caption


def test_a_small_object_on_even_ground_is_seen():
    features = torch.zeros(6, 20, 25)
    features[0] = 1
    features[:, 7:9, 11:13] = torch.tensor([0.0, 3, 0, 0, 0, 0])[:, None, None]
    colours = principal_colours(features, frame(20, 25)).astype(int)
    assert np.abs(colours[7, 11] - colours[0, 0]).max() == 255
    assert (colours[7:9, 11:13] == colours[7, 11]).all()
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 2


def test_energy_is_the_root_mean_square():
    features = torch.randn(5, 3, 4)
    assert torch.allclose(energy(features), (features**2).mean(0).sqrt())
    colours, strength = feature_views("Res2", features, frame(3, 4))
    assert colours.pixels.shape == (3, 4, 3)
    assert np.allclose(strength.values, energy(features).numpy())
