"""Names of the generated world, paths, and the folder for what is kept between runs."""

from pathlib import Path

import pytest

from moka.data.locate import cache_folder, existing, locate, media_cache


def test_other_names_stay_as_they_are() -> None:
    assert locate("meta-llama/Llama-2-7b-chat-hf") == "meta-llama/Llama-2-7b-chat-hf"


def test_generated_names_are_built_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOKA_CACHE", str(tmp_path))
    file = Path(locate("moka-micro/test.jsonl"))
    assert file.is_file()
    assert tmp_path in file.parents
    assert existing("moka-micro/test.jsonl") == file


@pytest.mark.parametrize("name", ["moka-micro/nothing", "moka-tiny/../../etc"])
def test_unknown_parts_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOKA_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=name):
        locate(name)


def test_what_must_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*absent"):
        existing(str(tmp_path / "absent"))


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOKA_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert media_cache(None) == tmp_path / "media"
    assert media_cache("elsewhere") == Path("elsewhere")
    assert media_cache("off") is None
    monkeypatch.delenv("MOKA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == tmp_path / "xdg" / "moka"
