"""The log-mel spectrogram against Kaldi's definition, written out for each window and each filter."""

import math
import re

import numpy as np
import pytest
import torch

from videomae_fast.data.sound.log_mel import log_mel, mel_filters


def mel(hertz: float) -> float:
    return 1127.0 * math.log(1.0 + hertz / 700.0)


def by_definition(samples: np.ndarray, num_mels: int) -> np.ndarray:
    """Kaldi's features with a DFT by its sum, float64, and BEATs's normalisation."""
    turn = np.exp(-2j * np.pi * np.outer(np.arange(256), np.arange(400)) / 512)
    window = np.array([(0.5 - 0.5 * math.cos(2 * math.pi * j / 399)) ** 0.85 for j in range(400)])
    step = (mel(8000) - mel(20)) / (num_mels + 1)
    rows = []
    for start in range(0, len(samples) - 399, 160):
        part = samples[start : start + 400] * 32768
        part = part - part.mean()
        sharp = np.array([part[j] - 0.97 * part[max(j - 1, 0)] for j in range(400)])
        power = np.abs(turn @ (sharp * window)) ** 2
        row = []
        for m in range(num_mels):
            left, centre, right = (mel(20) + step * (m + k) for k in range(3))
            energy = 0.0
            for k in range(256):
                place = mel(k * 31.25)
                if left < place < right:
                    rises = place <= centre
                    energy += power[k] * ((place - left) if rises else (right - place)) / step
            row.append((math.log(max(energy, 2**-23)) - 15.41663) / (2 * 6.55582))
        rows.append(row)
    return np.array(rows)


def sounds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    time = np.arange(1500) / 16000
    return {
        "noise": rng.uniform(-1, 1, 1500),
        "tone": 0.3 * np.sin(2 * np.pi * 440 * time) + 1e-3 * rng.normal(size=1500) + 0.2,
        "silence": np.zeros(720),
    }


@pytest.mark.parametrize("num_mels", [64, 128])
@pytest.mark.parametrize("name", ["noise", "tone", "silence"])
def test_it_is_kaldis(name: str, num_mels: int) -> None:
    samples = sounds()[name]
    expected = torch.from_numpy(by_definition(samples, num_mels))
    found = log_mel(torch.from_numpy(samples), 16000, num_mels)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        log_mel(torch.from_numpy(samples).float(), 16000, num_mels).double(), expected, rtol=0, atol=2e-4
    )


def test_ten_seconds_have_998_windows() -> None:
    assert log_mel(torch.zeros(2, 160000), 16000).shape == (2, 998, 64)
    assert [log_mel(torch.zeros(n), 16000, 3).shape[0] for n in (0, 399, 400, 559, 560)] == [0, 0, 1, 1, 2]


def test_filters_cover_the_frequencies() -> None:
    filters = mel_filters(64)
    assert filters.shape == (64, 256) and float(filters.min()) == 0 and float(filters.max()) <= 1
    middle = filters[:, 20:220].sum(0)
    torch.testing.assert_close(middle, torch.ones_like(middle))  # neighbours add up to 1
    assert int((mel_filters(128).sum(1) == 0).sum()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(800), 44100), "sample_rate must be 16000, at which BEATs hears, got 44100: resample first"),
        ((torch.zeros(800), 16000, 0), "num_mels must be positive, got 0"),
        (
            (torch.zeros(800, dtype=torch.int16), 16000),
            "waveform must be float32 or float64, in [-1, 1], got torch.int16",
        ),
    ],
)
def test_errors(arguments: tuple, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        log_mel(*arguments)
