"""Inception-v3 of FID: against torchvision's network where both agree, and against torch-fidelity's where it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.rounding import agree
from xmodal.foundation import inception
from xmodal.foundation.inception import Inception


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    net = inception.build().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # as if it had been trained: no statistic is 0 or 1
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return net


@pytest.fixture(scope="module")
def encoder(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Inception:
    """Through the published form: a file with a state dict."""
    file = tmp_path_factory.mktemp("inception") / inception.FILE
    torch.save(network.state_dict(), file)
    return Inception(str(file))


def test_is_torchvisions_network_but_for_the_pooling(network: nn.Module) -> None:
    from torchvision.models.inception import Inception3

    theirs = Inception3(num_classes=1008, aux_logits=False, init_weights=False).eval()
    theirs.load_state_dict(network.state_dict())
    with torch.no_grad():
        block, same = network.Mixed_7c, theirs.Mixed_7c
        y = torch.rand(1, 2048, 8, 8, generator=torch.Generator().manual_seed(2))
        mine, other = block(y), same(y)
        assert agree(mine[:, :-192], other[:, :-192])
        assert not torch.allclose(mine[:, -192:], other[:, -192:])
        z = torch.rand(1, 1280, 8, 8, generator=torch.Generator().manual_seed(3))
        mine, other = network.Mixed_7b(z), theirs.Mixed_7b(z)
        # Inside, where nothing is padded, the means are the same.
        assert torch.allclose(mine[..., 1:-1, 1:-1], other[..., 1:-1, 1:-1], atol=1e-5)
        assert not torch.allclose(mine[..., 0, :], other[..., 0, :], atol=1e-3)


def test_resize_takes_pixels_as_tensorflow_does() -> None:
    ramp = torch.arange(598.0).view(1, 1, 1, 598).expand(1, 3, 4, 598)
    made = inception.resize(ramp)
    assert made.shape == (1, 3, 299, 299)
    assert torch.equal(made[0, 0, 0], torch.arange(299.0) * 2)  # no half pixel, no smoothing
    assert torch.equal(inception.resize(made), made)


def test_agrees_with_torch_fidelity(network: nn.Module, encoder: Inception, tmp_path: Path) -> None:
    peer = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="torch-fidelity is not installed")
    file = tmp_path / "weights.pth"
    torch.save(network.state_dict(), file)
    theirs = peer.FeatureExtractorInceptionV3("peer", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file))
    pixels = torch.randint(0, 256, (2, 3, 64, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features, logits = theirs(pixels)
    mine = encoder.embed(pixels.float() / 255)
    assert (mine - features).abs().max() < 1e-4 * features.abs().max()
    assert (encoder.logits_unbiased(pixels.float() / 255) - logits).abs().max() < 1e-4 * logits.abs().max()


def test_import_and_faults(encoder: Inception, network: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / inception.FILE
    torch.save(network.state_dict(), file)
    folder = inception.import_checkpoint(file, tmp_path / "imported")
    pixels = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    assert agree(Inception(str(folder)).embed(pixels), encoder.embed(pixels))
    torch.save({"fc.weight": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match="Inception-v3 of FID"):
        Inception(str(file))
