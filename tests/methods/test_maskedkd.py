"""MaskedKD: which patches are kept, and what the teacher says of them, computed block by block."""

from __future__ import annotations

import pytest
import torch

from distill.contract.world import SMALLER
from distill.methods.maskedkd import class_attention, masked_logits
from tests import tiny

VIT = "vit_tiny_patch16_224"


def vit(seed: int, **args: int):
    return tiny.net(VIT, seed, **SMALLER[VIT] | args)


def made_of(*overrides: str, **args: int):
    data = tiny.tiny_data()
    made = tiny.make("maskedkd", vit(1, **args), vit(2), data, *overrides).eval()
    return made, next(data.source(batch_size=8, seed=3).epoch(1))


def test_attention_is_what_the_block_itself_attends_with() -> None:
    made, batch = made_of()
    block, seen = made.student.model.blocks[-1].attn, []
    block.fused_attn = False
    block.attn_drop.register_forward_hook(lambda _, inputs, output: seen.append(output))
    made.tap.arm()
    made.student.read(batch.inputs)
    expected = seen[0].mean(1)[:, 0, 1:].topk(8, dim=1).indices
    assert torch.equal(made.chosen(made.tap.take()).sort(1).values, expected.sort(1).values)


def test_mean_over_heads_of_one_row() -> None:
    queries, keys = (torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    rows = [[sum(torch.softmax(queries[b, h, 0] @ keys[b, h].T / 2, 0)[2 + n] for h in range(3)) / 3 for n in range(3)]
            for b in range(2)]  # fmt: skip
    assert torch.allclose(class_attention(queries, keys, 0.5, 2), torch.tensor(rows), atol=1e-6)


def test_the_teacher_computes_with_the_kept_patches_at_their_positions() -> None:
    net, images = vit(2).eval(), torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    chosen = torch.tensor([[0, 5, 9], [3, 2, 1], [15, 14, 0]])
    model = net.model
    with torch.no_grad():
        tokens = model._pos_embed(model.patch_embed(images))
        rows = torch.stack([torch.cat([t[:1], t[1:][c]]) for t, c in zip(tokens, chosen, strict=True)])
        expected = model.forward_head(model.norm(model.blocks(model.norm_pre(rows))))
        before = model.patch_drop
        assert torch.allclose(masked_logits(net, images, chosen), expected, atol=1e-5)
        whole = masked_logits(net, images, torch.arange(16).expand(3, 16))
        assert model.patch_drop is before and torch.allclose(whole, net(images).logits, atol=1e-5)


def test_losses_are_those_of_kd_under_a_teacher_that_sees_less() -> None:
    made, batch = made_of("method.keep=1.0")
    plain = tiny.make("kd", made.student, made.teacher, tiny.tiny_data(), "method.ce=0.5", "method.kd=0.5",
                      "method.temperature=1.0").eval()  # fmt: skip
    fewer, _ = made_of("method.keep=0.25")
    losses = (each.loss(batch) for each in (made, plain, fewer))
    mine, theirs, less = ({name: loss.item() for name, loss in each.items()} for each in losses)
    assert mine == pytest.approx(theirs, rel=1e-4) and less["kd"] != pytest.approx(mine["kd"], rel=1e-3)


@pytest.mark.parametrize(("name", "args", "text"), [
    (VIT, {"class_token": False, "reg_tokens": 1, "global_pool": "avg"}, "has none: take such a student"),
    ("vit_small_patch16_dinov3", {"depth": 2, "embed_dim": 32, "num_heads": 2}, "plain vision transformer"),
])  # fmt: skip
def test_students_whose_class_token_attends_otherwise_are_refused(name, args, text) -> None:
    with pytest.raises(ValueError, match=text):
        tiny.make("maskedkd", tiny.net(name, **SMALLER[VIT] | args), vit(2), tiny.tiny_data())


@pytest.mark.parametrize(("overrides", "args", "text"), [
    (("method.keep=0.01",), {}, "keeps no patch of 16"), ((), {"patch_size": 8}, "has 16, and .* 4: take nets of one")])
def test_what_cannot_be_masked_is_refused(overrides, args, text) -> None:  # fmt: skip
    with pytest.raises(ValueError, match=text):
        made_of(*overrides, **args)


def test_a_net_without_patches_is_refused() -> None:
    with pytest.raises(ValueError, match="plain vision transformer with a class token, and cifar_resnet8 is none"):
        tiny.make("maskedkd", tiny.net("cifar_resnet8"), vit(2), tiny.tiny_data())
