"""Archives made to do harm are refused by name before anything is written."""

import re
import stat
import struct
import unicodedata
import zipfile
from pathlib import Path

import pytest
from test_unzip import FILES, make_zip, on_disk

from vision.download.unzip import DamagedArchive, UnsafeArchive, extract, read_members


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def odd(name: str, *, mode: int = 0, data: bytes = b"x") -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info, data


DECOMPOSED = unicodedata.normalize("NFD", "a/\u00e9.jpg")
HOSTILE = {  # members, the name in the message, the reason
    "absolute": ([odd("/etc/cron.d/x")], "/etc/cron.d/x", "absolute"),
    "parent": ([odd("train2017/../../x.jpg")], "train2017/../../x.jpg", "'..'"),
    "parent first": ([odd("../x.jpg")], "../x.jpg", "'..'"),
    "parent last": ([odd("a/..")], "a/..", "'..'"),
    "dot": ([odd("./x.jpg")], "./x.jpg", "'.'"),
    "empty part": ([odd("a//x.jpg")], "a//x.jpg", "nothing"),
    "drive": ([odd("C:/x.jpg")], "C:/x.jpg", "drive"),
    "drive relative": ([odd("c:x.jpg")], "c:x.jpg", "drive"),
    "stream": ([odd("a/x.jpg:more")], "a/x.jpg:more", "colon"),
    "share": ([odd("\\\\host\\share\\x")], "\\\\host\\share\\x", "absolute"),
    "backslash": ([odd("a\\..\\x.jpg")], "a\\..\\x.jpg", "backslash"),
    "newline": ([odd("a/x\n.jpg")], "a/x\n.jpg", "control"),
    "trailing dot": ([odd("a./x.jpg")], "a./x.jpg", "dot or space"),
    "trailing space": ([odd("a/x.jpg ")], "a/x.jpg ", "dot or space"),
    "link": ([odd("a/x", mode=stat.S_IFLNK | 0o777, data=b"/etc")], "a/x", "link"),
    "device": ([odd("a/x", mode=stat.S_IFCHR | 0o666)], "a/x", "special"),
    "pipe": ([odd("a/x", mode=stat.S_IFIFO | 0o666)], "a/x", "special"),
    "folder as file": ([odd("a/x", mode=stat.S_IFDIR | 0o755)], "a/x", "folder"),
    "twice": ([odd("a/x.jpg"), odd("a/x.jpg")], "a/x.jpg", "twice"),
    "twice one letter": ([odd("a"), odd("a")], "a", "twice"),
    "case": ([odd("a/x.jpg"), odd("a/X.JPG")], "a/X.JPG", "twice"),
    "folder case": ([odd("a/x.jpg"), odd("A/y.jpg")], "A", "two spellings"),
    "accents": ([odd("a/\u00e9.jpg"), odd(DECOMPOSED)], DECOMPOSED, "twice"),
    "sharp s": ([odd("a/stra\u00dfe"), odd("a/STRASSE")], "a/STRASSE", "twice"),
    "file and folder": ([odd("a"), odd("a/x.jpg")], "a", "a file and a folder"),
    "bomb": ([odd("a/x.json", data=b"0" * 30_000_000)], "a/x.json", "a bomb"),
    "own temporary": ([odd("a/x.unpacking")], "a/x.unpacking", "being written"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("members", "name", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_members_are_refused_by_name_before_anything_is_written(
    tmp_path, root, members, name, reason
):
    zip_path = tmp_path / "a.zip"
    with zipfile.ZipFile(zip_path, "w") as archive:
        archive.writestr("good.jpg", b"good")
        for info, data in members:
            archive.writestr(info, data)
    with pytest.raises(UnsafeArchive, match=re.escape(repr(name)) + ".*" + re.escape(reason)):
        extract(zip_path, root)
    assert on_disk(tmp_path) == {"a.zip": zip_path.read_bytes()}


def test_a_data_folder_may_be_a_link_and_no_other_may(tmp_path, root):
    """People keep train2017/ on another disk; a link further inside may be a stranger's."""
    (tmp_path / "disk").mkdir()
    zip_path = make_zip(tmp_path / "a.zip", {"train2017/x.jpg": b"x", "train2017/own/y.jpg": b"y"})
    (root / "train2017").symlink_to(tmp_path / "disk")
    extract(zip_path, root)
    assert (tmp_path / "disk/own/y.jpg").read_bytes() == b"y"
    (tmp_path / "disk/own/y.jpg").unlink()
    (tmp_path / "disk/own").rmdir()
    (tmp_path / "beside").mkdir()
    (tmp_path / "disk/own").symlink_to(tmp_path / "beside")
    with pytest.raises(OSError, match="leads out of the folder"):
        extract(zip_path, root)
    assert not on_disk(tmp_path / "beside")


def test_a_name_cut_by_a_zero_byte_is_refused(tmp_path, root):
    data = make_zip(tmp_path / "a.zip", {"good.jpgX.exe": b"x"}).read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace(b"good.jpgX.exe", b"good.jpg\0.exe"))
    with pytest.raises(UnsafeArchive, match="control character"):
        extract(tmp_path / "a.zip", root)


def test_encrypted_members_are_refused(tmp_path, root):
    data = bytearray(make_zip(tmp_path / "a.zip", {"x.jpg": b"x"}).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(UnsafeArchive, match=r"'x\.jpg': encrypted"):
        extract(tmp_path / "a.zip", root)


def test_members_that_share_bytes_are_refused(tmp_path, root):
    """Many directory entries for one body: how 42 kB hold 5 GB without nesting."""
    data = make_zip(tmp_path / "a.zip", {"x.jpg": b"x" * 500, "y.jpg": b"x" * 500}).read_bytes()
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    offset = struct.unpack_from("<I", data, entry + 42)[0]
    assert offset > 0
    data = data[: entry + 42] + struct.pack("<I", 0) + data[entry + 46 :]
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(UnsafeArchive, match="overlaps"):
        extract(tmp_path / "a.zip", root)


def test_more_content_than_is_known_is_refused(tmp_path, root):
    zip_path = make_zip(tmp_path / "a.zip", FILES)
    assert len(read_members(zip_path, max_content=1_640_000)) == 4
    with pytest.raises(UnsafeArchive, match="1640000 bytes, 1639999 are expected"):
        extract(zip_path, root, max_content=1_639_999)


def test_many_small_members_that_grow_together_are_refused(tmp_path, root):
    zip_path = make_zip(tmp_path / "a.zip", {f"{i}.txt": b"0" * 900_000 for i in range(40)})
    with pytest.raises(UnsafeArchive, match="are expected"):
        extract(zip_path, root)


def test_a_member_longer_than_it_says_writes_no_more_than_that(tmp_path, root):
    """The sizes in the directory are lies; the CRC and the length catch it."""
    data = bytearray(make_zip(tmp_path / "a.zip", {"x.jpg": b"x" * 500_000}).read_bytes())
    for position in (22, data.index(b"PK\x01\x02") + 24):
        struct.pack_into("<I", data, position, 1000)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DamagedArchive, match=r"x\.jpg"):
        extract(tmp_path / "a.zip", root)
    assert on_disk(root) == {}
