"""Command-line arguments of all verbs."""

import argparse
import pathlib

from jaxreid.cli import values, verbs
from jaxreid.cli.calibrate import add_calibrate
from jaxreid.cli.compare import add_compare
from jaxreid.cli.crop import add_crop
from jaxreid.cli.data_arguments import add_data_verbs
from jaxreid.cli.evaluate import add_evaluate
from jaxreid.cli.export import add_export
from jaxreid.cli.finetune import add_finetune
from jaxreid.cli.group import add_group
from jaxreid.cli.index import add_index
from jaxreid.cli.pieces import add_images, add_json, add_model, add_verb
from jaxreid.cli.report import add_report
from jaxreid.cli.search import add_search
from jaxreid.cli.serve import add_serve
from jaxreid.cli.sweep import add_sweep


def make_parser() -> argparse.ArgumentParser:
    """Build the argument parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="jaxreid",
        description="Find the same person across cameras that the model has never seen.",
        epilog="example: jaxreid train qaconv --workdir=runs/qaconv",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.set_defaults(
        run=verbs.version, parser=parser, json=False, traceback=False, passes_on=False
    )
    commands = parser.add_subparsers(
        metavar="VERB", title="verbs (jaxreid VERB --help explains one)"
    )

    verb = add_verb(
        commands,
        "train",
        verbs.train,
        "train a model or resume a run",
        "jaxreid train qaconv:market1501,small --workdir=runs/market --config.data.dir=/data",
        "Override settings with --config.PATH=VALUE; --print_config lists them.",
    )
    verb.add_argument("recipe", help="recipe or path of a recipe file, optionally with :ARGUMENT")
    verb.add_argument("--workdir", help="work directory of the run")
    verb.set_defaults(passes_on=True)

    add_sweep(commands)

    verb = add_verb(
        commands,
        "plan",
        verbs.plan,
        "compile a recipe for devices that you do not have: memory, collectives, times",
        "jaxreid plan qaconv:market1501 --topology=v5e --chips=1,8,64",
        "Needs neither data nor weights nor the devices. Override settings with "
        "--config.PATH=VALUE. TPUs need their compiler: pip install 'jaxreid[tpu]'.",
    )
    verb.add_argument("recipe", help="recipe or path of a recipe file, optionally with :ARGUMENT")
    verb.add_argument(
        "--topology",
        required=True,
        metavar="KIND:SHAPE",
        help="v5e:4x4, v6e:8x8, v4:2x2x1, v5p:4x4x4, ..., several with commas; gpu:8 or cpu:8 for "
        "virtual devices of XLA:CPU",
    )
    verb.add_argument(
        "--chips",
        type=values.counts,
        default=(),
        metavar="N,N,...",
        help="numbers of chips of one KIND, in their usual shapes, instead of SHAPE",
    )
    verb.add_argument(
        "--identities", type=values.count, default=751, help="training identities (default: 751)"
    )
    verb.add_argument(
        "--images", type=values.count, default=12936, help="training images (default: 12936)"
    )
    verb.add_argument(
        "--batch-per-chip",
        "--batch_per_chip",
        type=values.count,
        metavar="N",
        help="images per device and step (default: batch_size over all devices, rounded up to a "
        "multiple of them)",
    )
    verb.add_argument(
        "--programs",
        type=lambda text: tuple(text.split(",")),
        default=("train", "encode", "score"),
        metavar="NAME,...",
        help="functions to compile (default: train,encode,score)",
    )
    verb.add_argument(
        "--effort",
        choices=("low", "full"),
        default="low",
        help="of the TPU compiler: full gives the program that a training compiles, and takes "
        "several times as long (default: low)",
    )
    add_json(verb)
    verb.set_defaults(passes_on=True)

    add_evaluate(commands)

    verb = add_verb(
        commands,
        "embed",
        verbs.embed,
        "compute features of images",
        "jaxreid embed runs/qaconv photographs/ --out=features.npz",
        "The file holds `features` [N, ...] float32 and `names` [N].",
    )
    add_model(verb)
    add_images(verb, "images", "image files or folders of images")
    verb.add_argument("--out", type=values.path, metavar="FILE.npz", help="file to write")
    add_json(verb)

    add_compare(commands)
    add_report(commands)
    add_search(commands)
    add_calibrate(commands)

    verb = add_verb(
        commands,
        "rank",
        verbs.rank,
        "rank gallery images by similarity to a query",
        "jaxreid rank runs/qaconv query.jpg photographs/ --top=5 --out=page.png",
    )
    add_model(verb)
    verb.add_argument("query", type=values.path, help="image file")
    add_images(verb, "gallery", "image files or folders of images")
    verb.add_argument(
        "--top", type=values.count, default=10, help="length of the list (default: 10)"
    )
    verb.add_argument("--out", type=values.path, metavar="FILE.png", help="picture to write")
    add_json(verb)

    verb = add_verb(
        commands,
        "explain",
        verbs.explain,
        "draw the matches behind the score of a pair",
        "jaxreid explain runs/qaconv a.jpg b.jpg --out=why.png",
        "For a model that compares whole images, it draws where the features of both come from.",
    )
    add_model(verb)
    verb.add_argument("a", type=values.path, help="image file")
    verb.add_argument("b", type=values.path, help="image file")
    verb.add_argument(
        "--out", type=values.path, required=True, metavar="FILE.png", help="picture to write"
    )
    verb.add_argument(
        "--activations",
        action="store_true",
        help="draw where the features come from, instead of the matches",
    )
    add_json(verb)

    verb = add_verb(
        commands,
        "weights",
        verbs.weights,
        "export a model to a single weights file",
        "jaxreid weights runs/qaconv qaconv.safetensors",
    )
    add_model(verb)
    verb.add_argument(
        "out", metavar="FILE.safetensors", help="file to write; also gs://..., s3://..."
    )
    add_json(verb)

    verb = add_verb(
        commands,
        "convert",
        verbs.convert,
        "convert a PyTorch checkpoint or an ONNX file to a weights file",
        "jaxreid convert resnet50_ibn_b.pth --arch=resnet50_ibn_b --out=resnet50_ibn_b.safetensors",
        "Reads .pth, .pth.tar, .pt and .safetensors files with the original parameter names: "
        "ImageNet weights of torchvision and IBN-Net, torchreid's OSNet, models of QAConv 1.0 to "
        "2.1; ONNX files of OSNet. Code in a checkpoint is never run. Start from the result with "
        "--config.init_from=FILE.",
    )
    _add_convert(verb)
    add_json(verb)

    add_export(commands)

    add_data_verbs(commands)
    add_crop(commands)
    add_group(commands)
    add_finetune(commands)
    add_serve(commands)
    add_index(commands)

    verb = add_verb(
        commands,
        "reproduce",
        verbs.reproduce,
        "list published results next to your own, and run their trainings",
        "jaxreid reproduce qaconv_gs --data=/data --weights=resnet50_ibn_b.safetensors --run",
        "Lists the trainings of a published table, mAP / rank-1, and the command of each. With "
        "--data, it reports which data sets are missing; with --run, it runs the trainings whose "
        "data sets are there, one after the other, and resumes where it was stopped. Further "
        "--config. settings are passed on.",
    )
    verb.add_argument("table", nargs="?", help="table (default: list all)")
    verb.add_argument("cells", nargs="*", metavar="TRAINING", help="trainings (default: all)")
    verb.add_argument("--data", metavar="DIR", help="folder of the data sets, in usual subfolders")
    verb.add_argument("--weights", metavar="FILE", help="ImageNet weights of the backbone")
    verb.add_argument(
        "--out",
        type=values.path,
        default=pathlib.Path("runs"),
        metavar="DIR",
        help="folder of the work directories (default: runs)",
    )
    verb.add_argument(
        "--run", action="store_true", dest="run_them", help="train on the available data sets"
    )
    add_json(verb)
    verb.set_defaults(passes_on=True)

    verb = add_verb(
        commands,
        "recipes",
        verbs.recipes,
        "list recipes or explain one",
        "jaxreid recipes qaconv",
    )
    verb.add_argument("name", nargs="?", help="recipe (default: list all)")
    add_json(verb)
    return parser


def _add_convert(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("checkpoint", type=values.path, help="file to read")
    verb.add_argument(
        "--arch",
        required=True,
        metavar="NAME",
        help="its backbone, such as resnet50_ibn_b; an unknown name lists the valid ones",
    )
    verb.add_argument(
        "--out", required=True, type=values.path, metavar="FILE.safetensors", help="file to write"
    )
    verb.add_argument(
        "--input-size",
        type=values.size,
        metavar="HxW",
        help="input size in pixels (default: that of the published model, as 384x128 for QAConv, "
        "256x128 for OSNet and ViT, 224x224 for ImageNet weights of a ResNet)",
    )
    verb.add_argument(
        "--normalisation",
        choices=("imagenet", "half", "none"),
        help="normalisation of pixels in [0, 1]; half: mean and deviation of 0.5, as of some ViT "
        "(default: that of the published model)",
    )
    verb.add_argument(
        "--cut",
        choices=("layer2", "layer3", "layer4"),
        help="last layer of a QAConv model without a neck",
    )
    verb.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="PREFIX",
        help="skip parameters with this prefix, in the names printed by the report: criterion, "
        "neck_, classifier, base.layer4, ...; repeatable",
    )
    verb.add_argument(
        "--memory", action="store_true", help="keep the class memory of a QAConv 1.x model"
    )
    verb.add_argument("--source", default="", help="origin of the file, recorded in the output")
    verb.add_argument("--verbose", action="store_true", help="list every parameter name")
