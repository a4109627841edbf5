"""Models that others wrote: of keras.applications, and backbones of keras-hub, untrained.

The applications have their own widths and depths, on the smallest images that they take; the
backbones are made small by their arguments, with four layers where they have layers of one
kind. Nothing here imports keras-hub before a backbone is built.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

import keras_fanwise as kf

# The smallest of each family of keras.applications, and how many of its additions join a
# branch with weights, counted by hand in what its builder does. NASNet adds the results of
# two branches each.
FAMILIES = {
    "ConvNeXtTiny": 18,
    "DenseNet121": 0,
    "EfficientNetB0": 9,
    "EfficientNetV2B0": 15,
    "EfficientNetV2S": 35,
    "InceptionResNetV2": 40,
    "InceptionV3": 0,
    "MobileNet": 0,
    "MobileNetV2": 10,
    "MobileNetV3Small": 6,
    "NASNetMobile": None,
    "ResNet50": 16,
    "ResNet50V2": 16,
    "VGG16": 0,
    "Xception": 12,
}
_LARGE = (
    "ConvNeXtTiny",
    "EfficientNetV2S",
    "InceptionResNetV2",
    "InceptionV3",
    "ResNet50",
    "ResNet50V2",
    "VGG16",
    "Xception",
)
# The side of the smallest images where 32 is too small.
SMALLEST = {
    "InceptionResNetV2": 75,
    "InceptionV3": 75,
    "NASNetLarge": 331,
    "NASNetMobile": 224,
    "Xception": 71,
}
_TEXT = {
    "vocabulary_size": 500,
    "num_layers": 4,
    "num_heads": 6,
    "hidden_dim": 384,
    "intermediate_dim": 1536,
}
_ENCODER = {**_TEXT, "max_sequence_length": 12}
_QUERIES = {
    "vocabulary_size": 500,
    "num_layers": 4,
    "num_query_heads": 6,
    "num_key_value_heads": 2,
    "hidden_dim": 384,
    "intermediate_dim": 1536,
}
_SMOL = {
    "vocabulary_size": 500,
    "num_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "hidden_dim": 384,
    "intermediate_dim": 1536,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "rope_layer_enabled_list": [True] * 4,
    "layer_types": ["full_attention"] * 4,
    "mlp_bias": False,
    "layer_norm_epsilon": 1e-6,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
}
_GEMMA = {**_QUERIES, "head_dim": 64}
_PATCHES = {
    "image_shape": (16, 16, 3),
    "patch_size": 4,
    "num_layers": 4,
    "num_heads": 6,
    "hidden_dim": 384,
}


class Backbone(NamedTuple):
    """A backbone of keras-hub.

    Attributes:
        arguments: of its class.
        additions: how many of its additions join a branch with weights, counted by hand.
    """

    arguments: dict[str, Any]
    additions: int


BACKBONES = {
    "Albert": Backbone({**_ENCODER, "embedding_dim": 128}, 8),
    "Bart": Backbone(_ENCODER, 20),
    "Bert": Backbone(_ENCODER, 8),
    "Bloom": Backbone(_TEXT, 8),
    "DebertaV3": Backbone({**_ENCODER, "bucket_size": 5}, 8),
    "DeiT": Backbone({**_PATCHES, "intermediate_dim": 1536}, 8),
    "DenseNet": Backbone(
        {"stackwise_num_repeats": [2, 2], "growth_rate": 8, "image_shape": (32, 32, 3)}, 0
    ),
    "DistilBert": Backbone(_ENCODER, 8),
    "EfficientNet": Backbone(
        {
            "stackwise_width_coefficients": [1.0] * 3,
            "stackwise_depth_coefficients": [1.0] * 3,
            "stackwise_kernel_sizes": [3, 3, 5],
            "stackwise_num_repeats": [1, 2, 2],
            "stackwise_input_filters": [16, 16, 24],
            "stackwise_output_filters": [16, 24, 40],
            "stackwise_expansion_ratios": [1, 6, 6],
            "stackwise_squeeze_and_excite_ratios": [0.25] * 3,
            "stackwise_strides": [1, 2, 2],
            "stackwise_block_types": ["v1"] * 3,
            "stackwise_force_input_filters": [0] * 3,
            "stackwise_nores_option": [False] * 3,
            "input_shape": (32, 32, 3),
        },
        3,
    ),
    "Electra": Backbone(
        {
            **{name: size for name, size in _ENCODER.items() if name != "vocabulary_size"},
            "vocab_size": 500,
            "embedding_dim": 128,
        },
        8,
    ),
    # Its Fourier transform has no weights.
    "FNet": Backbone({k: v for k, v in _ENCODER.items() if k != "num_heads"}, 4),
    "Falcon": Backbone(
        {
            **{name: size for name, size in _TEXT.items() if name != "num_heads"},
            "num_attention_heads": 6,
        },
        8,
    ),
    "GPT2": Backbone(_ENCODER, 8),
    # Attention and dense layers are added to the same signal at once.
    "GPTNeoX": Backbone({**_TEXT, "max_sequence_length": 12}, 4),
    "Gemma": Backbone(_GEMMA, 8),
    "Gemma3": Backbone({**_GEMMA, "image_size": 16}, 8),
    "Llama": Backbone(_QUERIES, 8),
    "Llama3": Backbone(_QUERIES, 8),
    "MiT": Backbone(
        {
            "layerwise_depths": [2, 2],
            "num_layers": 2,
            "layerwise_num_heads": [1, 2],
            "layerwise_sr_ratios": [2, 1],
            "max_drop_path_rate": 0.1,
            "layerwise_patch_sizes": [7, 3],
            "layerwise_strides": [4, 2],
            "hidden_dims": [16, 32],
            "image_shape": (32, 32, 3),
        },
        8,
    ),
    "Mistral": Backbone(_QUERIES, 8),
    "Mixtral": Backbone({**_QUERIES, "num_experts": 2, "top_k": 1}, 8),
    "MobileNet": Backbone(
        {
            "stackwise_expansion": [[16, 24], [32, 32]],
            "stackwise_num_blocks": [2, 2],
            "stackwise_num_filters": [[16, 16], [24, 24]],
            "stackwise_kernel_size": [[3, 3], [5, 5]],
            "stackwise_num_strides": [[2, 1], [2, 1]],
            "stackwise_se_ratio": [[None, None], [0.25, 0.25]],
            "stackwise_activation": [["relu", "relu"], ["hard_swish", "hard_swish"]],
            "stackwise_padding": [[1, 1], [2, 2]],
            "output_num_filters": 64,
            "depthwise_filters": 16,
            "depthwise_stride": 1,
            "depthwise_residual": True,
            "last_layer_filter": 64,
            "image_shape": (32, 32, 3),
        },
        3,
    ),
    "OPT": Backbone(_ENCODER, 8),
    "Phi3": Backbone(_QUERIES, 8),
    "Qwen": Backbone(_QUERIES, 8),
    "ResNet": Backbone(
        {
            "input_conv_filters": [64],
            "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": [64, 128],
            "stackwise_num_blocks": [2, 2],
            "stackwise_num_strides": [1, 2],
            "block_type": "basic_block",
            "image_shape": (32, 32, 3),
        },
        4,
    ),
    "Roberta": Backbone(_ENCODER, 8),
    "SmolLM3": Backbone(_SMOL, 8),
    "SwinTransformer": Backbone(
        {
            "image_shape": (32, 32, 3),
            "embed_dim": 16,
            "depths": (2, 2),
            "num_heads": (2, 2),
            "window_size": 4,
        },
        8,
    ),
    "T5": Backbone(_TEXT, 20),
    "VGG": Backbone(
        {
            "stackwise_num_repeats": [2, 2, 2],
            "stackwise_num_filters": [8, 16, 16],
            "image_shape": (32, 32, 3),
        },
        0,
    ),
    "ViT": Backbone(
        {**_PATCHES, "mlp_dim": 1536},
        8,
    ),
    "Whisper": Backbone(
        {
            **_TEXT,
            "num_mels": 8,
            "max_encoder_sequence_length": 24,
            "max_decoder_sequence_length": 12,
        },
        20,
    ),
    "XLMRoberta": Backbone(_ENCODER, 8),
    "XLNet": Backbone(_TEXT, 8),
}
_NARROW = {
    "vocabulary_size": 500,
    "num_layers": 2,
    "hidden_dim": 32,
    "intermediate_dim": 64,
}
_NARROW_QUERIES = {**_NARROW, "num_query_heads": 4, "num_key_value_heads": 2}
_NARROW_TOWER = {
    **_NARROW,
    "embedding_dim": 32,
    "num_heads": 4,
    "max_sequence_length": 12,
}
_NARROW_PATCHES = {
    "image_shape": (16, 16, 3),
    "patch_size": 4,
    "num_layers": 2,
    "num_heads": 4,
    "hidden_dim": 32,
    "intermediate_dim": 64,
}
_T5_SIDE = {
    "hidden_dim": 32,
    "intermediate_dim": 64,
    "num_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "layer_types": ["full_attention"] * 2,
}
# More backbones, to be built and re-initialized alone: their arguments. Of a pair of towers
# these are the names of their classes, in keras_hub.src.models, with the arguments of each.
MORE_BACKBONES: dict[str, dict[str, Any]] = {
    "CLIP": {
        "vision_encoder": ("clip.clip_vision_encoder.CLIPVisionEncoder", _NARROW_PATCHES),
        "text_encoder": ("clip.clip_text_encoder.CLIPTextEncoder", _NARROW_TOWER),
        "projection_dim": 32,
    },
    "CSPNet": {
        "stem_filters": 8,
        "stem_kernel_size": 3,
        "stem_strides": 2,
        "stackwise_depth": [1, 1],
        "stackwise_strides": [1, 2],
        "stackwise_num_filters": [8, 16],
        "block_type": "dark_block",
        "stage_type": "dark",
        "image_shape": (32, 32, 3),
    },
    "DINOV2": {**_NARROW_PATCHES, "position_embedding_shape": (24, 24, 3)},
    "DINOV3": _NARROW_PATCHES,
    "GptOss": {**_NARROW_QUERIES, "num_experts": 4},
    "Moonshine": {
        "vocabulary_size": 500,
        "filter_dim": 16,
        "encoder_num_layers": 2,
        "decoder_num_layers": 2,
        "hidden_dim": 32,
        "intermediate_dim": 64,
        "encoder_num_heads": 4,
        "decoder_num_heads": 4,
    },
    "PaliGemma": {
        **_NARROW_QUERIES,
        "head_dim": 8,
        "image_size": 16,
        "vit_patch_size": 4,
        "vit_num_heads": 4,
        "vit_hidden_dim": 32,
        "vit_num_layers": 2,
        "vit_intermediate_dim": 64,
    },
    "Qwen3": {**_NARROW_QUERIES, "head_dim": 8},
    "Qwen3Moe": {
        **_NARROW_QUERIES,
        "head_dim": 8,
        "moe_intermediate_dim": 16,
        "num_experts": 4,
        "top_k": 2,
    },
    "QwenMoe": {
        **_NARROW_QUERIES,
        "moe_intermediate_dim": 16,
        "shared_expert_intermediate_dim": 16,
        "num_experts": 4,
        "top_k": 2,
    },
    "RWKV7": {
        "hidden_size": 32,
        "head_size": 8,
        "num_layers": 2,
        "vocabulary_size": 500,
        "intermediate_dim": 64,
        "gate_lora": 8,
        "mv_lora": 8,
        "aaa_lora": 8,
        "decay_lora": 8,
    },
    "RoformerV2": {**_NARROW, "num_heads": 4, "head_size": 8},
    "SigLIP": {
        "vision_encoder": (
            "siglip.siglip_vision_encoder.SigLIPVisionEncoder",
            _NARROW_PATCHES,
        ),
        "text_encoder": ("siglip.siglip_text_encoder.SigLIPTextEncoder", _NARROW_TOWER),
    },
    "T5Gemma": {
        "vocabulary_size": 500,
        **{
            f"{side}_{name}": size
            for side in ("encoder", "decoder")
            for name, size in _T5_SIDE.items()
        },
    },
    "VideoPrism": {
        "num_frames": 4,
        "patch_size": 4,
        "hidden_dim": 32,
        "intermediate_dim": 64,
        "num_heads": 4,
        "num_spatial_layers": 2,
        "num_temporal_layers": 1,
        "num_auxiliary_layers": 0,
        "image_shape": (16, 16, 3),
    },
    "ViTDet": {
        "hidden_size": 32,
        "num_layers": 2,
        "intermediate_dim": 64,
        "num_heads": 4,
        "global_attention_layer_indices": [1],
        "image_shape": (32, 32, 3),
        "patch_size": 4,
        "num_output_channels": 16,
        "window_size": 2,
    },
    "Xception": {
        "stackwise_conv_filters": [[8, 8], [16, 16]],
        "stackwise_pooling": [False, True],
        "image_shape": (32, 32, 3),
    },
}
# Keras refuses them there.
_NOT_ON_TORCH = ("NASNetLarge", "NASNetMobile")
HAS_KERAS_HUB = importlib.util.find_spec("keras_hub") is not None


def every_application() -> list[str]:
    """The names of all models of keras.applications, of all sizes."""
    models = vars(keras.applications).items()
    return sorted(name for name, model in models if callable(model))


def is_on(name: str, backend: str) -> bool:
    """Whether a model can be built on a backend."""
    return backend != "torch" or name not in _NOT_ON_TORCH


def names(*, every_size: bool = False, large: bool = False) -> list[str]:
    """Of models, as `built` takes them.

    Args:
        every_size: of keras.applications, all models, and not one of each family.
        large: with the families of which the smallest has 20 million weights or more.
    """
    applications = [name for name in FAMILIES if large or name not in _LARGE]
    if every_size:
        applications = every_application()
    return [*applications, *(f"{name}Backbone" for name in BACKBONES if HAS_KERAS_HUB)]


def built(name: str) -> keras.Model:
    """A model, named as in `FAMILIES` or, with "Backbone" after it, in the other two."""
    if name.endswith("Backbone"):
        import keras_hub

        short = name.removesuffix("Backbone")
        known = BACKBONES.get(short)
        arguments = known.arguments if known else MORE_BACKBONES[short]
        towers = {
            argument: _tower(*value)
            for argument, value in arguments.items()
            if isinstance(value, tuple) and isinstance(value[0], str)
        }
        backbone: keras.Model = getattr(keras_hub.models, name)(**{**arguments, **towers})
        return backbone
    side = SMALLEST.get(name, 32)
    application = getattr(keras.applications, name)
    # Logits: behind a softmax starts can hardly be told apart.
    logits = {"classifier_activation": None}
    model: keras.Model = application(weights=None, input_shape=(side, side, 3), **logits)
    return model


def _tower(path: str, arguments: dict[str, Any]) -> keras.Model:
    module, _, name = path.rpartition(".")
    cls = getattr(importlib.import_module(f"keras_hub.src.models.{module}"), name)
    tower: keras.Model = cls(**arguments)
    return tower


def additions(name: str) -> int | None:
    """How many of its additions join a branch; `None` if nobody counted them."""
    if name.endswith("Backbone"):
        return BACKBONES[name.removesuffix("Backbone")].additions
    return FAMILIES.get(name)


def batch_of(model: keras.Model, samples: int = 4, length: int = 8) -> Any:
    """Random inputs, by what those of real models are called."""
    generator = np.random.default_rng(0)

    def values(tensor: Any) -> np.ndarray:
        shape = (samples, *(size or length for size in tensor.shape[1:]))
        if "mask" in tensor.name:
            return np.ones(shape, "int32")
        if "segment" in tensor.name:
            return np.zeros(shape, "int32")
        if "token" in tensor.name:
            return generator.integers(1, 500, shape, "int32")
        return generator.normal(size=shape).astype("float32")

    return keras.tree.map_structure(values, model.input)


def residual_additions(model: keras.Model) -> list[Any]:
    """Those of its additions that join a branch."""
    return [row for row in kf.residual_ends(model).rows if row.status == "residual"]


def predictions_of_a_file(path: Path, x: Any) -> list[np.ndarray]:
    """What a saved model gives; for a process in which nothing was built."""
    if HAS_KERAS_HUB:
        import keras_hub  # noqa: F401 (its classes are found by their names)
    model = keras.saving.load_model(path)
    return list(keras.tree.flatten(model.predict(x, verbose=0)))
