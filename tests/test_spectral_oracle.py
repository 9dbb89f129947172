"""The transforms and the spectral layer against torch-harmonics and neuraloperator, where these are installed."""

import numpy as np
import pytest
import torch

from microclimate.networks.spectral import SpectralLayer, Spherical


def latitudes(kind, h):
    "Rows of torch-harmonics' grids, degrees north, north first."
    return np.linspace(90, -90, h) if kind == "equiangular" else np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(h)[0][::-1]))


@pytest.mark.parametrize("kind", ["equiangular", "legendre-gauss"])
@pytest.mark.parametrize("h, w, degrees", [(25, 48, 10), (64, 128, 21), (91, 180, 32)])
def test_harmonics(kind, h, w, degrees):
    "Analysis of noise and synthesis of random coefficients, within 1e-5 of the largest value."
    theirs = pytest.importorskip("torch_harmonics")
    g = torch.Generator().manual_seed(h)
    ours = Spherical((h, w), degrees, latitudes(kind, h))
    field = torch.randn(2, 3, h, w, generator=g)
    z = theirs.RealSHT(h, w, lmax=degrees, mmax=degrees, grid=kind)(field)
    found = torch.complex(*ours.analysis(field).unbind(1)).permute(0, 3, 1, 2)
    assert (found - z).abs().max() < 1e-5 * z.abs().max()
    back = theirs.InverseRealSHT(h, w, lmax=degrees, mmax=degrees, grid=kind)(z)
    found = ours.synthesis(torch.stack([z.real, z.imag], 1).permute(0, 1, 3, 4, 2))
    assert (found - back).abs().max() < 1e-5 * back.abs().max()


@pytest.mark.parametrize("shape, modes", [((16, 24), 5), ((30, 21), 8), ((64, 112), 16)])
def test_equals_neuraloperator(shape, modes):
    "With the same weights, its layer and ours are the same function: values, and gradients of the input and of the weights."
    convolution = pytest.importorskip("neuralop.layers.spectral_convolution").SpectralConv
    torch.manual_seed(0)
    ours, theirs = SpectralLayer(6, shape, modes, transform="periodic"), convolution(6, 6, (2 * modes, 2 * modes - 2), bias=False)
    weight = torch.complex(*ours.weight.detach().chunk(2, 2)).view(2 * modes, modes, 6, 6).permute(2, 3, 0, 1)
    theirs.weight.tensor.data.copy_(weight)
    x, y = torch.randn(3, 6, *shape, requires_grad=True), torch.randn(3, 6, *shape)
    found = [(layer(x), *torch.autograd.grad((layer(x) - y).square().sum(), (x, *layer.parameters()))) for layer in (ours, theirs)]
    for a, b in zip(found[0][:2], found[1][:2]):
        assert (a - b).abs().max() < 1e-5 * b.abs().max()
    gradient = torch.complex(*found[0][2].chunk(2, 2)).view(2 * modes, modes, 6, 6).permute(2, 3, 0, 1)
    assert (gradient - found[1][2]).abs().max() < 1e-5 * gradient.abs().max()
