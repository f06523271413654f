"""Each archive whole on the disk, whatever happened on the way."""

import hashlib
import json
import os
import random
import zipfile
from pathlib import Path

import pytest
from fault_server import FaultServer

from vision.download import coco_install
from vision.download.coco_archives import ARCHIVES, Archive, archives_for, read_checksums
from vision.download.coco_install import absent_members, as_on_mirror, install, on_official_server
from vision.download.disk_space import check_free_space
from vision.download.unzip import DamagedArchive, UnsafeArchive

FILES = {f"val2017/{i:012}.jpg": random.Random(i).randbytes(40_000) for i in range(30)}
FILES["annotations/instances_val2017.json"] = b'{"images": []}'
ARCHIVE = Archive("zips/val2017.zip", 1_300_000, 1_300_000, is_exact=False)
ZIP = "val2017.zip"
RECORD = "val2017.zip.done.json"


def zipped(path: Path, files: dict[str, bytes]) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return path.read_bytes()


@pytest.fixture
def server(tmp_path):
    zipped(tmp_path / "server" / ARCHIVE.path, FILES)
    with FaultServer(tmp_path / "server") as server:
        yield server


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "coco").mkdir()
    return tmp_path / "coco"


def bring(server: FaultServer, root: Path, archive: Archive = ARCHIVE, **options) -> str:
    options = {"timeout": 0.5, "retries": 3, "first_pause": 0.01, **options}
    return install(archive, root, base_url=server.url, **options)


def on_disk(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_afterwards_the_files_are_there_and_the_zip_is_not(server, root):
    assert bring(server, root) == "val2017.zip: 31 files, all checked"
    assert {name: data for name, data in on_disk(root).items() if name != RECORD} == FILES
    assert bring(server, root) == "val2017.zip: complete already"
    assert len(server.requests) == 1


def test_keep_zip(server, root):
    bring(server, root, keep_zip=True)
    assert on_disk(root)[ZIP] == (server.folder / ARCHIVE.path).read_bytes()
    bring(server, root)
    assert (root / ZIP).exists()  # kept by the user, so not removed by a later run


def test_the_zip_stays_when_a_file_is_lost_while_it_is_unpacked(server, root):
    def lose_one(stage: str, done: int, total: int | None) -> None:
        if stage == "unpack" and done == total:
            (root / "val2017/000000000003.jpg").unlink()

    with pytest.raises(OSError, match=r"000000000003\.jpg: gone or cut .* 0 more"):
        bring(server, root, progress=lose_one)
    assert (root / ZIP).exists()
    bring(server, root)
    assert {name: data for name, data in on_disk(root).items() if name != RECORD} == FILES
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", ["flip", "lie", "other-length:100"])
def test_damage_that_only_the_crc_shows_is_fetched_once_more(server, root, fault):
    server.faults = [fault]
    bring(server, root)
    assert {name: data for name, data in on_disk(root).items() if name != RECORD} == FILES
    assert len(server.requests) == 2


def test_two_versions_mixed_by_a_server_without_validators_are_found(server, root):
    """Of the same length, so that nothing but the content shows it."""
    server.validators = "none"
    other = {name: data[::-1] for name, data in FILES.items()}
    server.versions["/zips/val2017.zip"] = [zipped(server.folder / "other.zip", other)]
    server.faults = ["close:600000", "change"]
    bring(server, root)
    assert {name: data for name, data in on_disk(root).items() if name != RECORD} == other


def test_damaged_on_the_server_is_a_failure_that_leaves_no_wrong_file(server, root):
    server.faults = ["flip", "flip"]
    with pytest.raises(DamagedArchive, match=r"zip: .*twice, so try another --base-url"):
        bring(server, root)
    assert all(FILES[name] == data for name, data in on_disk(root).items())
    bring(server, root)
    assert {name: data for name, data in on_disk(root).items() if name != RECORD} == FILES


def test_a_cut_zip_from_another_tool_is_kept_aside(server, root):
    cut = (server.folder / ARCHIVE.path).read_bytes()[:700_000]
    (root / ZIP).write_bytes(cut)
    bring(server, root)
    assert (root / "val2017.zip.damaged").read_bytes() == cut
    assert absent_members(ARCHIVE, root) == []


def test_a_whole_zip_that_is_there_is_not_fetched(server, root):
    (root / ZIP).write_bytes((server.folder / ARCHIVE.path).read_bytes())
    bring(server, root)
    assert server.requests == []


def test_a_hostile_zip_is_refused_and_not_fetched_again(server, root):
    zipped(server.folder / ARCHIVE.path, {"../evil.jpg": b"x"})
    with pytest.raises(UnsafeArchive, match=r"\.\./evil\.jpg.*; delete it and try another --base"):
        bring(server, root)
    assert len(server.requests) == 1 and not (root.parent / "evil.jpg").exists()


def test_an_exact_archive_must_have_its_length_and_no_more_content(server, root):
    length = (server.folder / ARCHIVE.path).stat().st_size
    with pytest.raises(OSError, match=f"offers {length} bytes, the file has 1300000"):
        bring(server, root, Archive(ARCHIVE.path, 1_300_000, 1_300_000), retries=0)
    with pytest.raises(UnsafeArchive, match="1200014 bytes, 1200000 are expected"):
        bring(server, root, Archive(ARCHIVE.path, length, 600_000))


def test_sha256(server, root):
    digest = hashlib.sha256((server.folder / ARCHIVE.path).read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=f"a whole zip, but its SHA-256 is {digest}, not 0000"):
        bring(server, root, sha256="0" * 64)
    assert list(on_disk(root)) == [ZIP]  # nothing unpacked, nothing fetched twice
    assert len(server.requests) == 1
    (root / ZIP).unlink()
    server.faults = ["flip"]
    bring(server, root, sha256=digest)
    assert absent_members(ARCHIVE, root) == []


def test_a_zip_that_is_not_cocos_is_refused_but_from_a_mirror(server, root, caplog):
    length = (server.folder / ARCHIVE.path).stat().st_size
    exact = Archive(ARCHIVE.path, length, length, "0" * 64)
    with pytest.raises(ValueError, match=r"not 0000.*: delete it .* --base-url that it is of"):
        bring(server, root, exact)
    assert list(on_disk(root)) == [ZIP]
    bring(server, root, as_on_mirror(exact, root, base_url=server.url, timeout=1))
    assert absent_members(ARCHIVE, root) == []
    assert "val2017.zip: not COCO's own zip: its SHA-256 is" in caplog.text


def test_a_digest_of_the_users_counts_more_than_cocos(server, root):
    data = (server.folder / ARCHIVE.path).read_bytes()
    exact = Archive(ARCHIVE.path, len(data), len(data), "0" * 64)
    bring(server, root, exact, sha256=hashlib.sha256(data).hexdigest())
    assert absent_members(ARCHIVE, root) == []


@pytest.mark.parametrize("https", [True, False])
def test_the_official_server_is_asked_by_https_first(server, root, monkeypatch, https):
    monkeypatch.setattr(coco_install, "OFFICIAL_URL", server.url if https else server.url + "/no")
    monkeypatch.setattr(coco_install, "PLAIN_URL", server.url)
    length = (server.folder / ARCHIVE.path).stat().st_size
    exact = Archive(ARCHIVE.path, length, length, "0" * 64)
    url, archives = on_official_server([exact, ARCHIVE], root, timeout=1)
    assert url == (coco_install.OFFICIAL_URL if https else coco_install.PLAIN_URL)
    assert archives[1].is_exact != https  # by http nothing but COCO's own zips is taken


def test_files_that_are_gone_are_brought_back_and_only_they_are_written(server, root):
    bring(server, root)
    inodes = {path: path.stat().st_ino for path in root.rglob("*.jpg")}
    names = sorted(FILES)
    (root / names[5]).unlink()
    (root / names[6]).write_bytes(b"cut")
    assert [member.name for member in absent_members(ARCHIVE, root)] == names[5:7]
    bring(server, root)
    assert {name: data for name, data in on_disk(root).items() if name != RECORD} == FILES
    changed = {p.name for p, inode in inodes.items() if p.stat().st_ino != inode}
    assert changed <= {Path(name).name for name in names[5:7]}


def test_what_the_fixer_and_the_validator_move_counts_as_there(server, root):
    bring(server, root)
    annotations = root / "annotations/instances_val2017.json"
    annotations.rename(annotations.with_suffix(".original.json"))
    annotations.write_bytes(b"fixed")
    (root / "val2017_invalid").mkdir()
    image = root / "val2017/000000000003.jpg"
    image.rename(root / "val2017_invalid" / image.name)
    assert bring(server, root) == "val2017.zip: complete already"
    (root / RECORD).unlink()  # now the zip has to be unpacked again
    bring(server, root)
    assert annotations.read_bytes() == b"fixed" and not image.exists()


def test_checksum_files(tmp_path):
    path = tmp_path / "sums"
    path.write_text(f"# COCO\n{'ab' * 32}  zips/train2017.zip\n\n{'CD' * 32} *val2017.zip\n")
    assert read_checksums(path) == {"train2017.zip": "ab" * 32, "val2017.zip": "cd" * 32}
    path.write_text(f"{'ab' * 32}  train2017.zip\n{'zz' * 32}  val2017.zip\n")
    with pytest.raises(ValueError, match="sums:2: not a line of sha256sum"):
        read_checksums(path)


def test_archives_of_splits():
    assert [archive.name for archive in archives_for(["val", "train", "val"])] == [
        "train2017.zip",
        "val2017.zip",
    ]
    assert {archive.path for archive in archives_for(ARCHIVES)} == {
        "zips/train2017.zip",
        "zips/val2017.zip",
        "zips/test2017.zip",
        "annotations/annotations_trainval2017.zip",
        "annotations/image_info_test2017.zip",
    }
    with pytest.raises(ValueError, match="no split 'valid'"):
        archives_for(["valid"])


def test_a_mirrors_own_lengths_count(server, root):
    found = as_on_mirror(ARCHIVES["val"][0], root, base_url=server.url, timeout=1)
    assert found.num_bytes == (server.folder / ARCHIVE.path).stat().st_size
    assert not found.is_exact
    missing = as_on_mirror(ARCHIVES["train"][0], root, base_url=server.url, timeout=1)
    assert missing.num_bytes == 19_336_861_798


def free_bytes(root: Path) -> int:
    found = os.statvfs(root)
    return found.f_bavail * found.f_frsize


def test_free_space_says_the_numbers_before_the_first_byte(root):
    free = free_bytes(root)
    huge = Archive("zips/train2017.zip", free, free)
    with pytest.raises(
        ValueError, match=r"GB are free, .* GB are needed \(train2017\.zip [\d.]+ GB"
    ):
        check_free_space([huge], root, keep_zips=False)


def test_archives_that_do_not_fit_together_may_fit_one_by_one(root):
    third = int(free_bytes(root) * 0.3)
    pair = [Archive("zips/a.zip", third, third), Archive("zips/b.zip", third, 1000)]
    assert check_free_space(pair[:1], root, keep_zips=True) is True
    assert check_free_space(pair, root, keep_zips=False) is True  # 0.3 + 0.3 + 0.3
    pair.append(Archive("zips/c.zip", third, 1000))
    assert check_free_space(pair, root, keep_zips=False) is False
    with pytest.raises(ValueError, match="GB are needed"):
        check_free_space(pair, root, keep_zips=True)


def test_what_is_here_already_needs_no_space(server, root):
    free = free_bytes(root)
    bring(server, root)
    assert check_free_space([Archive(ARCHIVE.path, free, free)], root, keep_zips=False)
    record = json.loads((root / RECORD).read_bytes())
    assert len(record["members"]) == 31
    (root / RECORD).unlink()
    (root / ZIP).write_bytes((server.folder / ARCHIVE.path).read_bytes())
    assert check_free_space([Archive(ARCHIVE.path, free, free)], root, keep_zips=False)
