import pytest
import torch

from medseg.networks import borders, layers


@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (2, 6, 5, 4, 3)])
def test_instance_norm_equals_torch_s(shape):
    x = torch.randn(shape)
    ours = layers.norm("instance", len(shape) - 2, 6)(x)
    torch.testing.assert_close(ours, torch.nn.functional.instance_norm(x), rtol=1e-4, atol=1e-5)


def test_instance_norm_of_a_single_voxel_is_its_offset():
    norm = layers.norm("instance", 3, 4).train()
    torch.testing.assert_close(norm(torch.randn(1, 4, 1, 1, 1)), torch.zeros(1, 4, 1, 1, 1), rtol=0, atol=1e-4)


def test_padding_mirrors_as_often_as_needed():
    x = torch.arange(3.0).reshape(1, 1, 3, 1)
    padded = borders.pad(x, (5, 0), (2, 0))
    assert padded.flatten().tolist() == [1, 0, 1, 2, 1, 0, 1, 2, 1, 0]
    wide = torch.randn(1, 2, 9, 8)
    torch.testing.assert_close(
        borders.pad(wide, (3, 2), (4, 5)), torch.nn.functional.pad(wide, (2, 5, 3, 4), mode="reflect")
    )


def test_pooling_that_rounds_up_is_undone_by_the_leading_crop():
    pooled = layers.max_pool(2, 2, ceil_mode=True)(torch.randn(1, 1, 5, 7))
    assert pooled.shape[2:] == (3, 4)
    raised = layers.up_conv(2, 1, 1, 2)(pooled)
    assert borders.leading_crop(raised, (5, 7)).shape[2:] == (5, 7)


def test_resizing_keeps_corners_where_asked():
    x = torch.arange(4.0).reshape(1, 1, 4, 1).expand(1, 1, 4, 2)
    aligned = layers.resize(x, (7, 2), align_corners=True)
    torch.testing.assert_close(aligned[0, 0, :, 0], torch.arange(7) / 2)


def test_frozen_batch_normalisation_trains_neither_statistics_nor_scale_and_has_batch_normalisation_s_keys():
    frozen, batch = layers.norm("frozen_batch", 2, 3), layers.norm("batch", 2, 3)
    batch(torch.randn(4, 3, 5, 5) + 7)
    frozen.load_state_dict(batch.state_dict())
    x = torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(frozen.train()(x), batch.eval()(x))
    torch.testing.assert_close(frozen.running_mean, batch.running_mean)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
