"""ViT: equal to PyTorch under the names of DeiT, DINOv2, TransReID and CLIP; maps for matchers."""

import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from selection import deep

from jaxreid.models.backbones import make_backbone
from jaxreid.models.model import init_variables, make_model
from jaxreid.weights.conversion import fitting
from jaxreid.weights.layouts.vit import interpolated
from jaxreid.weights.pytorch import convert
from jaxreid.weights.state_dict import foreign, unwrapped

TINY = {"name": "vit_small_patch16", "width": 12, "depth": 2, "heads": 3, "patch": 8}
SIZE = {"height": 32, "width": 16}


def model_of(neck, matcher, **options):
    return make_model(backbone=TINY | options, neck=neck, matcher=matcher, **SIZE)


def some_images(count):
    return np.random.default_rng(0).integers(0, 255, (count, 32, 16, 3), np.uint8)


def test_patches_make_a_map_and_the_class_token_one_position():
    x = np.zeros((2, 32, 16, 3), np.float32)
    for options, shape in (
        ({}, (2, 4, 2, 12)),
        ({"step": 4}, (2, 7, 3, 12)),
        ({"registers": 3}, (2, 4, 2, 12)),
        ({"output": "class", "registers": 3}, (2, 1, 1, 12)),
    ):
        backbone = make_backbone(**TINY | options)
        y, _ = jax.eval_shape(backbone.init_with_output, jax.random.key(0), x)
        assert y.shape == shape


def test_qaconv_compares_its_patches_and_a_pooled_neck_embeds_its_class_token():
    images = some_images(3)
    local = model_of({"name": "map", "channels": 4}, {"name": "qaconv"})
    whole = model_of({"name": "pooled"}, {"name": "embedding"}, output="class")
    for model, shape in ((local, (3, 4, 2, 4)), (whole, (3, 12))):
        variables = jax.jit(lambda model=model: init_variables(model, 0))()

        def scored(variables, images, model=model):
            def run(model, images):
                feature = model.encode(images)
                return feature, model.match(feature, feature)

            return model.apply(variables, images, method=run)

        feature, score = jax.jit(scored)(variables, images)
        assert feature.shape == shape
        assert (np.argmax(score, 1) == np.arange(3)).all()


def test_images_of_another_size_and_wrong_options_are_refused():
    backbone = make_backbone(**TINY)
    x = np.zeros((1, 32, 16, 3), np.float32)
    variables = jax.eval_shape(backbone.init, jax.random.key(0), x)
    with pytest.raises(ValueError, match="positions for 8 patches, but the images have 4"):
        jax.eval_shape(backbone.apply, variables, x[:, :16])
    with pytest.raises(ValueError, match=r"heads is 5, which does not divide backbone.width 12"):
        make_backbone(**TINY | {"heads": 5})
    with pytest.raises(ValueError, match="unknown backbone.output 'cls'; valid: class"):
        make_backbone(**TINY | {"output": "cls"})
    with pytest.raises(ValueError, match="step is -1"):
        make_backbone(**TINY | {"step": -1})


torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402


class PyTorchBlock(nn.Module):
    def __init__(self, d, heads, *, scale):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(d, eps=1e-6) for _ in range(2))
        self.attn, self.mlp, self.scale = nn.Module(), nn.Module(), scale
        self.attn.qkv, self.attn.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        if scale:
            self.ls1, self.ls2 = nn.Module(), nn.Module()
            for ls in (self.ls1, self.ls2):
                ls.gamma = nn.Parameter(torch.ones(d))

    def forward(self, x):
        first, second = (self.ls1.gamma, self.ls2.gamma) if self.scale else (1, 1)
        b, n, d = x.shape
        qkv = self.attn.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(b, n, d)
        x = x + first * self.attn.proj(y)
        y = self.mlp.fc2(nn.functional.gelu(self.mlp.fc1(self.norm2(x))))
        return x + second * y


class PyTorchViT(nn.Module):
    """ViT-S with the names of timm, DeiT, DINO and DINOv2; all tokens, normalised."""

    def __init__(self, patch, step, positions, *, scale=False, registers=0):
        super().__init__()
        d = 384
        self.cls_token = nn.Parameter(torch.zeros(1, 1, d))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + positions, d))
        if registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, d))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, d, patch, step)
        self.blocks = nn.Sequential(*(PyTorchBlock(d, 6, scale=scale) for _ in range(12)))
        self.norm = nn.LayerNorm(d, eps=1e-6)

    def forward(self, x):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        if hasattr(self, "register_tokens"):
            registers = self.register_tokens.expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], registers, x[:, 1:]], 1)
        return self.norm(self.blocks(x))


class PyTorchCLIP(nn.Module):
    """The images' network of CLIP ViT-B/16, up to its last normalisation."""

    def __init__(self, positions):
        super().__init__()
        d, self.visual = 768, nn.Module()
        v = self.visual
        v.conv1 = nn.Conv2d(3, d, 16, 16, bias=False)
        v.class_embedding = nn.Parameter(torch.zeros(d))
        v.positional_embedding = nn.Parameter(torch.zeros(1 + positions, d))
        v.proj = nn.Parameter(torch.zeros(d, 512))
        v.ln_pre, v.ln_post = nn.LayerNorm(d), nn.LayerNorm(d)
        v.transformer = nn.Module()
        v.transformer.resblocks = nn.ModuleList(nn.Module() for _ in range(12))
        for block in v.transformer.resblocks:
            block.attn, block.mlp = nn.MultiheadAttention(d, 12, batch_first=True), nn.Module()
            block.ln_1, block.ln_2 = nn.LayerNorm(d), nn.LayerNorm(d)
            block.mlp.c_fc, block.mlp.c_proj = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        # Of the network of texts.
        self.ln_final, self.positional_embedding = nn.LayerNorm(8), nn.Parameter(torch.zeros(7, 8))

    def forward(self, x):
        v = self.visual
        x = v.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([v.class_embedding.expand(len(x), 1, -1), x], 1) + v.positional_embedding
        x = v.ln_pre(x)
        for block in v.transformer.resblocks:
            y = block.ln_1(x)
            x = x + block.attn(y, y, y, need_weights=False)[0]
            y = block.mlp.c_fc(block.ln_2(x))
            x = x + block.mlp.c_proj(y * torch.sigmoid(1.702 * y))
        return v.ln_post(x)


def redrawn(net):
    """Draw weights that keep tokens of one size and apart from each other."""
    generator = torch.Generator().manual_seed(0)
    for name, x in net.state_dict().items():
        if "embed" in name and "proj" not in name or "token" in name:
            x.normal_(0, 0.5, generator=generator)
        elif x.ndim > 1:
            x.normal_(0, x[0].numel() ** -0.5, generator=generator)
        elif re.search(r"(norm\d?|ln_\w+)\.weight$|gamma$|running_var$", name):
            x.uniform_(0.5, 1.5, generator=generator)
        elif x.is_floating_point():
            x.normal_(0, 0.1, generator=generator)
    return net.eval()


# PyTorch, height and width of the images, tokens before the patches, and the backbone's options.
CASES = {
    "vit_small_patch16": (lambda: PyTorchViT(16, 16, 8), (64, 32), 1, {}),
    "vit_small_patch14_dinov2": (
        lambda: PyTorchViT(14, 14, 8, scale=True, registers=4), (56, 28), 5, {"registers": 4},
    ),
    "vit_base_patch16_clip": (lambda: PyTorchCLIP(8), (64, 32), 1, {}),
}  # fmt: skip


def tokens(converted, images):
    """All that the converted backbone makes: class token and patches, [B, 1 + n, d]."""
    options = {k: v for k, v in converted.card["backbone"].items() if k != "output"}
    held = {"params": converted.variables["params"]["backbone"]}
    x = np.moveaxis(images.numpy(), 1, -1)

    def both(held, x):
        outputs = (make_backbone(**options, output=o).apply(held, x) for o in ("class", "patches"))
        return [y.reshape(len(x), -1, y.shape[-1]) for y in outputs]

    return np.concatenate(jax.jit(both)(held, x), 1)


def assert_equal(ours, theirs):
    """Up to rounding in float32 over twelve blocks, about 1e-6."""
    assert np.linalg.norm(ours - theirs) < 1e-4 * np.linalg.norm(theirs)


@pytest.mark.parametrize("arch", deep(*CASES, but=["vit_small_patch16"]))
def test_tokens_equal_pytorchs(arch):
    make, size, before, options = CASES[arch]
    net = redrawn(make())
    held = {name: x.numpy() for name, x in net.state_dict().items()}
    held, _ = unwrapped({f"module.{name}": x for name, x in held.items()})
    converted = convert(held, arch, input_size=size)
    assert converted.report.complete, converted.report
    assert converted.card["backbone"] == {"name": arch, "output": "class"} | options
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    theirs = net(images).detach().numpy()
    theirs = np.concatenate([theirs[:, :1], theirs[:, before:]], 1)
    assert_equal(tokens(converted, images), theirs)


@pytest.mark.full
def test_overlapping_patches_of_transreid_are_found_by_their_number():
    net = redrawn(PyTorchViT(16, 12, 15))
    outer = nn.Module()
    outer.base, outer.bottleneck = net, nn.BatchNorm1d(384)
    outer.classifier = nn.Linear(384, 7, bias=False)
    held, _ = unwrapped({name: x.numpy() for name, x in outer.state_dict().items()})
    converted = convert(held, "vit_small_patch16", input_size=(64, 40))
    assert converted.report.complete, converted.report
    assert converted.card["backbone"]["step"] == 12
    assert converted.card["mean"] == (0.5, 0.5, 0.5)
    images = torch.randn(2, 3, 64, 40, generator=torch.Generator().manual_seed(0))
    assert_equal(tokens(converted, images), net(images).detach().numpy())
    # Cameras are not known where a model is used.
    more = held | {"sie_embed": np.zeros((6, 1, 384), np.float32)}
    report = convert(more, "vit_small_patch16", input_size=(64, 40)).report
    assert report.unexpected == ["sie_embed"]


@pytest.mark.full
def test_tokens_equal_timms():
    timm = pytest.importorskip("timm")
    net = timm.create_model("vit_small_patch16_224", img_size=(64, 32), num_classes=3)
    net = redrawn(net)
    held = {name: x.numpy() for name, x in net.state_dict().items()}
    converted = convert(held, "vit_small_patch16", input_size=(64, 32))
    assert converted.report.complete, converted.report
    images = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    assert_equal(tokens(converted, images), net.forward_features(images).detach().numpy())


@pytest.mark.parametrize("grid", [(5, 2), (3, 9), (8, 8)])
def test_a_table_of_positions_is_interpolated_as_by_pytorch(grid):
    table = np.random.default_rng(0).standard_normal((4, 4, 3)).astype(np.float32)
    moved = torch.from_numpy(table).permute(2, 0, 1)[None]
    theirs = nn.functional.interpolate(moved, grid, mode="bilinear", align_corners=False)
    theirs = theirs[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(interpolated(table, grid), theirs, atol=1e-6)


def shapes_of(arch, positions):
    """Tensors of a whole file, without numbers."""
    make, size, *_ = CASES[arch]
    with torch.device("meta"):
        net = make()
    shapes = {name: tuple(x.shape) for name, x in net.state_dict().items()}
    shapes["pos_embed"] = (1, 1 + positions, 384)
    zeros = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    return SimpleNamespace(tensors=zeros, size=size)


def test_a_square_table_is_fitted_to_the_images_and_another_is_not():
    file = shapes_of("vit_small_patch16", 14 * 14)
    report = convert(file.tensors, "vit_small_patch16", input_size=file.size).report
    assert report.complete
    file = shapes_of("vit_small_patch16", 10)
    report = convert(file.tensors, "vit_small_patch16", input_size=file.size).report
    assert report.mismatched == [("pos_embed", (1, 11, 384), (1, 9, 384))]


def test_the_right_vit_is_found_and_foreign_parts_are_named():
    file = shapes_of("vit_small_patch16", 14 * 14)
    assert fitting(file.tensors, input_size=file.size) == ["vit_small_patch16"]
    assert foreign([*file.tensors, "decoder.weight"]) == ["decoder"]
