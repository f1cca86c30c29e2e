"""The log-mel spectrogram of sound that BEATs reads: Kaldi's filter bank features, and BEATs's normalisation."""

import math
from functools import cache

import torch
from torch import Tensor

SAMPLE_RATE = 16000  # samples per second
WINDOW, HOP = 400, 160  # samples: 25 ms and 10 ms
MEAN, DEVIATION = 15.41663, 6.55582  # of AudioSet's features, as BEATs has them
_FFT = 512  # points: the next power of two
_LOWEST = 20.0  # Hz
_EPSILON = 2.0**-23  # the least energy: float32's epsilon
_SCALE = 2.0**15  # samples of 16 bits


def log_mel(waveform: Tensor, sample_rate: int, num_mels: int = 64) -> Tensor:
    """The normalised log-mel spectrogram of sound in windows of 25 ms, every 10 ms.

        s    = 2¹⁵ · waveform[160 t : 160 t + 400]          no window reaches over the end
        y    = s − mean(s)
        z[j] = y[j] − 0.97 · y[max(j − 1, 0)]
        P    = |FFT₅₁₂(z · povey)|²                         povey[j] = (½ − ½ cos(2πj / 399))^0.85
        x[t, m] = (log max(Σₖ filter[m, k] · P[k], 2⁻²³) − 15.41663) / (2 · 6.55582)

    The filters are triangles whose corners are equally far apart, from 20 Hz to 8 kHz, on the scale 1127 ln(1 + f/700).

    Args:
        waveform: (…, n) floating, samples of one channel in [−1, 1].
        sample_rate: samples per second; 16000.
        num_mels: M, the filters; 128 as BEATs, 64 as InternVideo2.

    Returns:
        (…, T, M) of the waveform's dtype, T = 1 + ⌊(n − 400) / 160⌋; T = 0 if n < 400.

    Raises:
        ValueError: another sample rate, or no filter.
        TypeError: `waveform` is not float32 or float64.

    References:
        `compute-fbank-feats` of Kaldi, with its defaults but for the dither, which is 0; `preprocess`, beats/BEATs.py
        of microsoft/unilm; `load_audio_av`, multi_modality/dataset/av_utils.py of OpenGVLab/InternVideo.
    """
    if sample_rate != SAMPLE_RATE:
        raise ValueError(f"sample_rate must be {SAMPLE_RATE}, at which BEATs hears, got {sample_rate}: resample first")
    if waveform.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"waveform must be float32 or float64, in [-1, 1], got {waveform.dtype}")
    filters = mel_filters(num_mels).to(waveform)
    if waveform.shape[-1] < WINDOW:
        return waveform.new_empty(*waveform.shape[:-1], 0, num_mels)
    s = _SCALE * waveform.unfold(-1, WINDOW, HOP)
    y = s - s.mean(-1, keepdim=True)
    z = y - 0.97 * torch.cat([y[..., :1], y[..., :-1]], dim=-1)
    power = torch.view_as_real(torch.fft.rfft(z * _povey().to(waveform), _FFT)).square().sum(-1)
    energy = power[..., :-1] @ filters.mT
    return (energy.clamp_min(_EPSILON).log() - MEAN) / (2 * DEVIATION)


@cache
def mel_filters(num_mels: int) -> Tensor:
    """The filters (M, 256) float64 of `log_mel`, at the frequencies k · 31.25 Hz, k in [0, 256).

    Args:
        num_mels: M.

    Returns:
        The weights, in [0, 1]. Of 128 filters, as published, one of the narrow ones has no frequency and is 0.

    Raises:
        ValueError: `num_mels` is not positive.
    """
    if num_mels < 1:
        raise ValueError(f"num_mels must be positive, got {num_mels}")
    low, high = (1127 * math.log1p(hertz / 700) for hertz in (_LOWEST, SAMPLE_RATE / 2))
    corners = torch.linspace(low, high, num_mels + 2, dtype=torch.float64)
    frequencies = torch.arange(_FFT // 2, dtype=torch.float64) * (SAMPLE_RATE / _FFT)
    mels = 1127 * torch.log1p(frequencies / 700)
    rising = (mels - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - mels) / (corners[2:] - corners[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp_min(0)


def _povey() -> Tensor:
    return torch.hann_window(WINDOW, periodic=False, dtype=torch.float64).pow(0.85)
