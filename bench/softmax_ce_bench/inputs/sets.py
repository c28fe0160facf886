"""The named sets of synthetic workloads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """A synthetic workload's recipe: see :func:`softmax_ce_bench.inputs.workloads.synthetic`.

    Attributes
    ----------
    name : str
    rows, classes : int
    regime : str
        The use that it stands for, in a few words.
    padding : int
        Classes at the end that are masked with -inf.
    zipf : bool
        Label k with a probability proportional to 1 / (k + 1), as words have.
    values : str
        A key of :data:`softmax_ce_bench.inputs.workloads.VALUES`.
    inner : tuple of int
        The axes after the classes, as an image's height and width. The logits are of shape (N, C, *inner), and `rows`
        is the number of positions.
    features : int or None
        The features of the linear layer that takes the logits' place in some operations; None: the default of
        :func:`softmax_ce_bench.measure.operations.make_layer`.
    """

    name: str
    rows: int
    classes: int
    regime: str
    padding: int = 0
    zipf: bool = False
    values: str = "wide"
    inner: tuple[int, ...] = ()
    features: int | None = None


_BOOSTING = Shape("boosting", 4096, 10, "many rows, few classes, as in gradient boosting")
_VISION = Shape("vision", 1024, 1000, "a batch of an ImageNet classifier")

# The first is what `softmax-ce compare` measures unasked, after the digits.
SETS: dict[str, tuple[Shape, ...]] = {
    "quick": (
        # Many rows, few classes: the work per row is mostly not exp. What a boosting library does every round.
        _BOOSTING,
        # 4 MB of float32 logits: beyond L2, within most L3 caches.
        _VISION,
        # 8 MB in a few long rows, the vocabulary padded for alignment, words as frequent as words are.
        Shape("vocabulary", 64, 32_000, "tokens of a language model, Zipf labels, padding", padding=128, zipf=True),
    ),
    "vision": (
        # 5 KB: the call overhead is everything.
        Shape("cifar10", 128, 10, "a batch of a small classifier"),
        # 102 KB: within L2, and below every backend's threshold for a second thread.
        Shape("cifar100", 256, 100, "a batch of a classifier with 100 classes"),
        _VISION,
        # 5.6 MB in rows of 87 KB, beyond L1: classes of which most are rare.
        Shape("imagenet21k", 64, 21_843, "a batch of a classifier with 21 843 classes"),
        # 22 MB: a row a pixel, fewer classes than two vectors have lanes.
        Shape("segmentation", 262_144, 21, "every pixel of a 512 x 512 image, 21 classes"),
    ),
    "llm": (
        # One row: classes must be shared among threads, or one thread works alone.
        Shape("decoding", 1, 128_256, "one token of a language model", zipf=True),
        # 103 MB in float32: beyond most L3 caches; an odd number of classes, so that rows begin unaligned.
        Shape("gpt2", 512, 50_257, "512 tokens, vocabulary of GPT-2", zipf=True),
        # 131 MB in rows of 128 KB, which just leave L1.
        Shape("llama2", 1024, 32_000, "1024 tokens, vocabulary of Llama 2", zipf=True),
        # 131 MB in rows of 513 KB, half an L2 cache each.
        Shape("llama3", 256, 128_256, "256 tokens, vocabulary of Llama 3", padding=256, zipf=True),
    ),
    "boosting": (
        # 1.2 KB: a toy, where the call overhead is everything.
        Shape("iris", 150, 3, "a toy: 150 rows, 3 classes"),
        _BOOSTING,
        # 2.6 MB: within L3, rows of 40 bytes.
        Shape("letters", 65_536, 10, "65 536 rows, 10 classes"),
        # 16 MB: rows of 28 bytes, shorter than a vector.
        Shape("covertype", 581_012, 7, "as many rows and classes as the Covertype data"),
    ),
    # The classes on axis 1, as networks for images give them: neighbours in memory are pixels, and not classes.
    "segmentation": (
        Shape("cityscapes", 131_072, 21, "(2, 21, 256, 256), axis 1: two images, 21 classes", inner=(256, 256)),
        # 12.6 MB: fewer classes than a vector has lanes.
        Shape("medical", 1_048_576, 3, "(4, 3, 512, 512), axis 1: four scans, 3 tissues", inner=(512, 512)),
        Shape("ade20k", 32_768, 150, "(2, 150, 128, 128), axis 1: two images, 150 classes", inner=(128, 128)),
    ),
    # The last layer of a language model with its loss: --op linear.
    "linear": (
        # 4 MB of logits: both layer and logits are in the caches.
        Shape("head-small", 256, 4096, "256 tokens, a small vocabulary, 128 features", features=128),
        # 262 MB of logits, 65 MB of weights: one call is 200 GFLOP.
        Shape("head", 2048, 32_000, "2048 tokens, vocabulary of Llama 2, 512 features", features=512),
    ),
    # The same layer with vocabularies of several sizes: what the memory of the logits comes to. The largest is first,
    # and takes half of the time.
    "vocabularies": tuple(
        Shape(f"head-{classes // 1024}k", 1024, classes, "1024 tokens, 256 features", features=256)
        for classes in (131_072, 65_536, 32_768, 16_384, 8192)
    ),
    # One shape, so that only the values differ: what they cost, and what they do to the error.
    "numerics": (
        Shape("wide", 512, 1000, "standard deviation 30: exp overflows and underflows float32"),
        Shape("narrow", 512, 1000, "standard deviation 0.1: an untrained model", values="narrow"),
        Shape("offset", 512, 1000, "an offset of 4096 on every logit", values="offset"),
        Shape("masked", 512, 1000, "half of the classes at -inf", values="masked"),
        Shape("tied", 512, 1000, "whole numbers: many equal maxima", values="tied"),
        Shape("subnormal", 512, 1000, "one class far ahead: subnormal gradients in float32", values="subnormal"),
        Shape("huge", 512, 1000, "standard deviation 10 000", values="huge"),
    ),
}  # fmt: skip
SHAPES = SETS["quick"]
