"""BEATs' input: Kaldi's log-mel filter bank of a window of sound."""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

# Kaldi counts in 16-bit integers, takes 25 ms every 10 ms, and never goes below the smallest float32 step.
RATE = 16000
INTEGER_SCALE = 2**15
FRAME, HOP, FFT = 400, 160, 512
FLOOR = 1.192092955078125e-07
LOWEST_HZ = 20


class BeatsFeatureExtractor(SequenceFeatureExtractor):
    """Waveforms at 16 kHz -> normalised log-mel filter banks, as BEATs was trained on them.

    Args:
        feature_size: Values per time step of the waveform: 1.
        sampling_rate: Of the waveforms, in Hz; only 16000.
        num_mel_bins: Mel bins.
        max_length: Frames of a window; shorter waveforms are filled up with silence.
        mean, std: Of the training set's filter banks; values become (x - mean) / (2 std).
        padding_value: What silence is.
    """

    model_input_names: ClassVar[list[str]] = ["input_values"]

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = RATE,
        num_mel_bins: int = 128,
        max_length: int = 198,
        mean: float = 15.41663,
        std: float = 6.55582,
        padding_value: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if sampling_rate != RATE:
            raise ValueError(f"sampling_rate is {sampling_rate}; BEATs takes {RATE} Hz")
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        self.num_mel_bins, self.max_length, self.mean, self.std = num_mel_bins, max_length, mean, std

    def __call__(
        self, waveforms: Sequence[np.ndarray] | np.ndarray, sampling_rate: int, return_tensors: str | None = None
    ) -> BatchFeature:
        """Compute the filter banks of a batch.

        Args:
            waveforms: (samples,) in [-1, 1], or a list of them of at most `max_length` frames.
            sampling_rate: Of the waveforms, in Hz.
            return_tensors: "np", "pt" or None.

        Returns:
            `input_values` of shape (N, max_length, num_mel_bins), float32.

        Raises:
            ValueError: Another rate, not one channel, or a waveform that is too long.
        """
        if sampling_rate != self.sampling_rate:
            raise ValueError(f"the sound has {sampling_rate} Hz, BEATs takes {self.sampling_rate}: resample it")
        alone = isinstance(waveforms, np.ndarray) and waveforms.ndim == 1
        rows = [self._fbank(np.asarray(one, dtype=np.float64)) for one in ([waveforms] if alone else waveforms)]
        values = (np.stack(rows) - self.mean) / (2 * self.std)
        return BatchFeature({"input_values": values.astype(np.float32)}, tensor_type=return_tensors)

    def _fbank(self, waveform: np.ndarray) -> np.ndarray:
        samples = FRAME + HOP * (self.max_length - 1)
        if waveform.ndim != 1:
            raise ValueError(f"the sound has shape {waveform.shape}; expected one channel: (samples,)")
        if len(waveform) >= samples + HOP:
            raise ValueError(
                f"the sound has {len(waveform)} samples; {self.max_length} frames take {samples}. Raise max_length, "
                "or cut the sound into windows"
            )
        filled = np.pad(waveform, (0, max(0, samples - len(waveform))), constant_values=self.padding_value)
        return spectrogram(
            filled * INTEGER_SCALE,
            window_function(FRAME, "povey", periodic=False),
            frame_length=FRAME,
            hop_length=HOP,
            fft_length=FFT,
            power=2.0,
            center=False,
            preemphasis=0.97,
            mel_filters=_mel_filters(self.num_mel_bins),
            mel_floor=FLOOR,
            log_mel="log",
            remove_dc_offset=True,
        ).T


@functools.cache
def _mel_filters(num_mel_bins: int) -> np.ndarray:
    return mel_filter_bank(
        num_frequency_bins=FFT // 2 + 1,
        num_mel_filters=num_mel_bins,
        min_frequency=LOWEST_HZ,
        max_frequency=RATE / 2,
        sampling_rate=RATE,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
