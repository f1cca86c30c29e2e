"""Sound is read where the video's times say that it is, in one channel, and never silently left out."""

import math
import re
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.data.sound_files import clicks, write_sound_video
from videomae_fast.data import CaptionedEntry, FrameFolder, TarMember, VideoError, VideoFile
from videomae_fast.data.readers import sound
from videomae_fast.data.readers.sound import SoundReader
from videomae_fast.data.sound import log_mel, sound_clip

RATE = 16000


def read(path: Path, start: float, seconds: float) -> np.ndarray:
    reader = SoundReader(VideoFile(str(path)), RATE)
    try:
        return reader.read(start, seconds)
    finally:
        reader.close()
        reader.close()


def onsets(samples: np.ndarray) -> list[float]:
    """Seconds at which clicks begin."""
    loud = np.flatnonzero(np.abs(samples) > 0.25)
    return [float(loud[k]) / RATE for k in range(len(loud)) if k == 0 or loud[k] - loud[k - 1] > 160]


def entry(path: Path, start: float = 0.0, end: float = math.inf) -> CaptionedEntry:
    return CaptionedEntry(VideoFile(str(path)), ("a click",), start, end)


@pytest.mark.parametrize(
    ("name", "codec", "rate", "channels"),
    [
        ("a.mkv", "pcm_s16le", 16000, 1),
        ("a.mkv", "flac", 44100, 2),
        ("a.mp4", "aac", 48000, 2),
        ("a.avi", "pcm_s16le", 8000, 1),
        ("a.ts", "aac", 44100, 1),
        ("a.webm", "libopus", 48000, 2),
    ],
)
def test_clicks_are_where_they_were(name: str, codec: str, rate: int, channels: int, tmp_path: Path) -> None:
    times = [0.25, 1.25, 3.5]
    if name.endswith("webm"):
        path = _remuxed_webm(tmp_path, times, rate, channels, codec)
    else:
        path = write_sound_video(tmp_path / name, clicks(times, 4.0, rate, channels), rate, 4.0, codec)
    for start in (0.0, 1.0, 3.0):
        expected = [time - start for time in times if time >= start]
        found = onsets(read(path, start, 4.0))
        assert len(found) == len(expected), (start, found)
        assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < 2e-3, (start, found)
    assert onsets(read(path, 1.0, 0.2)) == [] and len(read(path, 1.0, 0.2)) == 3200


def _remuxed_webm(folder: Path, times: list[float], rate: int, channels: int, codec: str) -> Path:
    """WebM takes no H.264: Matroska does, whatever the name of the file says."""
    made = write_sound_video(folder / "a.mkv", clicks(times, 4.0, rate, channels), rate, 4.0, codec)
    return made.rename(folder / "a.webm")


def test_channels_are_averaged(tmp_path: Path) -> None:
    both = np.stack([np.full(16000, 0.5), np.full(16000, -0.25)])
    samples = read(write_sound_video(tmp_path / "a.mkv", both, seconds=1.0), 0.0, 1.0)
    assert samples.dtype == np.float32 and samples.shape == (16000,)
    np.testing.assert_allclose(samples, 0.125, atol=1e-3)


def test_sound_that_begins_late_or_ends_early(tmp_path: Path) -> None:
    late = write_sound_video(tmp_path / "late.mkv", clicks([0.0], 0.5), seconds=2.0, starts=1.0)
    assert onsets(read(late, 0.0, 2.0)) == [pytest.approx(1.0, abs=2e-3)]
    assert onsets(read(late, 0.75, 1.0)) == [pytest.approx(0.25, abs=2e-3)]
    early = write_sound_video(tmp_path / "early.mkv", clicks([0.0], 0.5), seconds=2.0)
    assert len(read(early, 0.0, 2.0)) == 8000 and len(read(early, 1.0, 1.0)) == 0


def test_a_clip_is_its_spectrogram_and_zeros(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 32000)).astype(np.float32)
    path = write_sound_video(tmp_path / "a.mkv", samples, seconds=2.0)
    found = sound_clip(entry(path), 0, 0)
    assert found.spectrogram.shape == (998, 64) and not found.silent
    expected = log_mel(torch.from_numpy(samples[0]), RATE)
    torch.testing.assert_close(found.spectrogram[:198], expected, rtol=0, atol=2e-3)  # of 16 bits
    assert not found.spectrogram[198:].any()
    part = sound_clip(entry(path, 0.5, 1.5), 0, 0).spectrogram
    torch.testing.assert_close(part[:98], log_mel(torch.from_numpy(samples[0, 8000:24000]), RATE), rtol=0, atol=2e-3)
    assert not part[98:].any()


def test_ten_seconds_of_a_long_sound_are_drawn(tmp_path: Path) -> None:
    times = [float(second) for second in range(13)]
    samples = clicks(times, 13.0)
    samples += np.linspace(0, 0.2, samples.shape[1], dtype=np.float32)  # tells where a part begins
    path = write_sound_video(tmp_path / "a.mkv", samples, seconds=13.0)
    clips = [sound_clip(entry(path), 0, number).spectrogram for number in range(4)]
    assert all(clip[-1].any() for clip in clips)
    assert all(not torch.equal(clips[0], clip) for clip in clips[1:])
    assert torch.equal(clips[2], sound_clip(entry(path), 0, 2).spectrogram)
    whole = sound_clip(entry(path, 3.0, 13.0), 0, 5).spectrogram
    assert torch.equal(whole, sound_clip(entry(path, 3.0), 0, 6).spectrogram) and whole[-1].any()


def test_without_sound_there_are_zeros_and_a_mark(tmp_path: Path) -> None:
    mute = write_sound_video(tmp_path / "mute.mkv", None)
    early = write_sound_video(tmp_path / "early.mkv", clicks([0.0], 0.5), seconds=2.0)
    quiet = write_sound_video(tmp_path / "quiet.mkv", clicks([], 2.0))
    cases = [entry(mute), entry(early, 1.0), CaptionedEntry(FrameFolder(str(tmp_path), 0, 3), ("a",))]
    for case in cases:
        found = sound_clip(case, 0, 0)
        assert found.silent and not found.spectrogram.any()
    recorded = sound_clip(entry(quiet), 0, 0)
    assert not recorded.silent and float(recorded.spectrogram[:198].max()) == pytest.approx(-2.39, abs=0.01)


def test_sound_of_a_member_of_a_tar_file(tmp_path: Path) -> None:
    path = write_sound_video(tmp_path / "a.mkv", clicks([0.5], 1.0), seconds=1.0)
    data = path.read_bytes()
    tar = tmp_path / "shard.tar"
    tar.write_bytes(b"\0" * 512 + data + b"\0" * 512)
    member = TarMember(str(tar), "a.mkv", 512, len(data))
    found = sound_clip(CaptionedEntry(member, ("a",)), 0, 0)
    assert torch.equal(found.spectrogram, sound_clip(entry(path), 0, 0).spectrogram)


def test_damaged_sound_is_an_error(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, (1, 32000)).astype(np.float32)

    def garbage(number: int, data: bytes) -> bytes:
        return data if number < 10 else bytes(255 - byte for byte in data)

    path = write_sound_video(tmp_path / "a.mkv", samples, seconds=2.0, codec="aac", damage=garbage)
    with pytest.raises(VideoError, match=re.escape("a.mkv: av cannot decode its sound (")):
        sound_clip(entry(path), 0, 0)
    assert not sound_clip(entry(path, 0.0, 0.3), 0, 0).silent  # what is whole can be read


def test_sound_without_a_decoder_is_an_error(tmp_path: Path) -> None:
    path = write_sound_video(tmp_path / "a.mkv", clicks([0.5], 1.0), seconds=1.0)
    data = path.read_bytes()
    assert data.count(b"A_PCM/INT/LIT") == 1
    path.write_bytes(data.replace(b"A_PCM/INT/LIT", b"A_NOBODYKNOWS"))
    with pytest.raises(VideoError, match="has no decoder for the codec of its audio stream"):
        sound_clip(entry(path), 0, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_samples_that_are_no_numbers_are_an_error(value: float, rate: int, tmp_path: Path) -> None:
    samples = clicks([0.5], 1.0, rate)
    samples[0, rate // 4] = value
    path = write_sound_video(tmp_path / "a.mov", samples, rate, 1.0, "pcm_f32le")
    with pytest.raises(VideoError, match=re.escape("a.mov: its sound has samples that are NaN or infinite")):
        read(path, 0.0, 1.0)


def test_loud_samples_are_limited_in_each_channel(tmp_path: Path) -> None:
    """Also those whose sum over channels is infinite."""
    samples = np.stack([np.full(16000, 3e38), np.full(16000, 3e38)])
    samples[1, 8000:] = -0.5
    found = read(write_sound_video(tmp_path / "a.mov", samples, seconds=1.0, codec="pcm_f32le"), 0.0, 1.0)
    assert len(found) == 16000
    assert (found[:8000] == 1.0).all() and (found[8000:] == 0.25).all()


def test_a_rate_that_would_flood_the_resampler_is_an_error(tmp_path: Path) -> None:
    path = write_sound_video(tmp_path / "a.avi", clicks([], 1.0, 1000), 1000, 1.0)
    assert len(read(path, 0.0, 1.0)) == 16000
    data = path.read_bytes()
    said = struct.pack("<HHII", 1, 1, 1000, 2000)  # the header of PCM: a tag, channels, Hz, bytes a second
    assert data.count(said) == 1
    path.write_bytes(data.replace(said, struct.pack("<HHII", 1, 1, 8, 16)))
    with pytest.raises(VideoError, match=re.escape("a.avi: its sound must have at least 1000 Hz, got 8")):
        read(path, 0.0, 1.0)


def test_many_channels_are_read_and_too_many_are_an_error(tmp_path: Path) -> None:
    path = write_sound_video(tmp_path / "a.avi", np.full((1, 16000), 0.5), seconds=1.0)
    data = path.read_bytes()
    said = struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)
    assert data.count(said) == 1
    for channels in (9, 64, 65):
        header = struct.pack("<HHIIHH", 1, channels, 16000, 32000 * channels, 2 * channels, 16)
        path.write_bytes(data.replace(said, header))
        if channels < 65:
            found = read(path, 0.0, 1.0)[: 16000 // channels - 32]
            assert len(found) > 200
            np.testing.assert_allclose(found, 0.5, atol=1e-3)
    with pytest.raises(VideoError, match=re.escape("a.avi: its sound must have at most 64 channels, got 65")):
        read(path, 0.0, 1.0)


def test_a_video_without_a_time_base_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sound_video(tmp_path / "a.mkv", clicks([0.5], 1.0), seconds=1.0)
    closed: list[bool] = []

    class Streams:
        def best(self, kind: str) -> SimpleNamespace:
            return SimpleNamespace(start_time=1, time_base=None)

    container = SimpleNamespace(duration=None, streams=Streams(), close=lambda: closed.append(True))
    monkeypatch.setattr(sound, "open_sound", lambda *_: (container, None))
    with pytest.raises(VideoError, match=re.escape("a.mkv: av cannot tell its times (")):
        SoundReader(VideoFile(str(path)), RATE)
    assert closed == [True]


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such file"):
        sound_clip(entry(tmp_path / "none.mkv"), 0, 0)


def test_a_reader_closes_its_file(tmp_path: Path) -> None:
    """Also in the middle of a sound."""
    path = write_sound_video(tmp_path / "a.mkv", clicks([0.5], 4.0), seconds=4.0)
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    for _ in range(20):
        read(path, 1.0, 0.1)
    after = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    assert after <= before


@pytest.mark.parametrize("offset", [0.7, None], ids=["too far", "not at all"])
def test_a_container_that_seeks_wrongly(offset: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sound_video(tmp_path / "a.mkv", clicks([1.1, 2.5], 4.0), seconds=4.0)
    seek = SoundReader._seek
    monkeypatch.setattr(SoundReader, "_seek", lambda self, time: offset is not None and seek(self, time + offset))
    assert onsets(read(path, 1.0, 2.0)) == pytest.approx([0.1, 1.5], abs=2e-3)
