"""Tiny models that hear."""

import torch

from tests.adapter.tiny import (
    AUDIO,
    LLAMA,
    TEXT,
    VISION,
    WHISPER,
    Tiny,
    both,
    build,
    config_of,
    masked_mel,
    mel,
    mel_with_mask,
    noise,
)

AUDIO_LAYOUTS = ("tt{aaaaaaaa}tttttt", "t{aaaaaaaa}tttt")


def qwen2_audio():
    config = config_of(
        "qwen2_audio",
        audio_config=WHISPER | {"model_type": "qwen2_audio_encoder"},
        text_config=TEXT | {"model_type": "qwen2"},
        audio_token_index=AUDIO,
    )
    return Tiny(build("Qwen2AudioForConditionalGeneration", config), AUDIO_LAYOUTS, both(masked_mel))


def voxtral():
    config = config_of(
        "voxtral",
        audio_config=WHISPER | {"model_type": "voxtral_encoder"},
        text_config=TEXT | {"model_type": "llama", "head_dim": 8},
        audio_token_id=AUDIO,
    )
    layouts = ("ttaaaatttttt", "taaaatttt")
    return Tiny(build("VoxtralForConditionalGeneration", config), layouts, both(mel))


def audioflamingo3():
    config = config_of(
        "audioflamingo3",
        audio_config=WHISPER | {"model_type": "audioflamingo3_encoder"},
        text_config=TEXT | {"model_type": "qwen2"},
        audio_token_id=AUDIO,
    )

    return Tiny(build("AudioFlamingo3ForConditionalGeneration", config), AUDIO_LAYOUTS, both(mel_with_mask))


def musicflamingo():
    config = config_of(
        "musicflamingo",
        audio_config=WHISPER | {"model_type": "audioflamingo3_encoder"},
        text_config=TEXT | {"model_type": "qwen2"},
        audio_token_id=AUDIO,
        audio_bos_token_id=95,
        audio_eos_token_id=96,
    )
    return Tiny(build("MusicFlamingoForConditionalGeneration", config), AUDIO_LAYOUTS, both(mel_with_mask))


def glmasr():
    audio = {
        "model_type": "glmasr_encoder",
        "hidden_size": 16,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_mel_bins": 16,
        "max_position_embeddings": 64,
    }
    config = config_of("glmasr", audio_config=audio, text_config=LLAMA, audio_token_id=AUDIO)
    return Tiny(
        build("GlmAsrForConditionalGeneration", config), ("tt{aaaa}tttttt", "t{aaaa}tttt"), both(mel_with_mask)
    )


def qwen3_asr():
    audio = WHISPER | {"output_dim": 32, "n_window": 50, "downsample_hidden_size": 8, "max_source_positions": 64}
    config = config_of(
        "qwen3_asr",
        audio_config=audio | {"model_type": "qwen3_asr_encoder"},
        text_config=TEXT | {"model_type": "qwen3", "head_dim": 8},
        audio_token_id=AUDIO,
    )

    def media(seed):
        return {"input_features": noise(1, 16, 100, seed=seed)} | {
            "input_features_mask": torch.ones(1, 100, dtype=torch.long)
        }

    return Tiny(
        build("Qwen3ASRForConditionalGeneration", config),
        ("tt{" + 13 * "a" + "}tttttt", "t{" + 13 * "a" + "}tttt"),
        both(media),
    )


def granite_speech():
    encoder = {
        "model_type": "granite_speech_encoder",
        "input_dim": 16,
        "num_layers": 2,
        "hidden_dim": 16,
        "num_heads": 2,
        "dim_head": 8,
        "context_size": 4,
        "max_pos_emb": 8,
        "conv_kernel_size": 3,
        "output_dim": 8,
    }
    projector = VISION | {"model_type": "blip_2_qformer", "encoder_hidden_size": 16, "vocab_size": 8}
    config = config_of(
        "granite_speech",
        encoder_config=encoder,
        projector_config=projector,
        text_config=TEXT | {"model_type": "granite"},
        audio_token_index=AUDIO,
        has_lora_adapter=False,
        window_size=4,
        downsample_rate=2,
    )

    def media(seed):
        return {"input_features": noise(1, 8, 16, seed=seed)}

    return Tiny(build("GraniteSpeechForConditionalGeneration", config), ("ttaaaattttt", "taaaattt"), both(media))
