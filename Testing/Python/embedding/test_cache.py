"""The cache: what comes out is what went in, damage is noticed and removed, and nothing is half-written."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from platformdirs.macos import MacOS
from samples import OBLIQUE, tiny_model

from UniversalAnatomicalEmbeddingLib.embedding.cache import ARRAYS, Cache, cache_key, default_folder
from UniversalAnatomicalEmbeddingLib.embedding.embedding import Embedding
from UniversalAnatomicalEmbeddingLib.images.grid import Grid
from UniversalAnatomicalEmbeddingLib.images.preprocess import Intensity
from UniversalAnatomicalEmbeddingLib.images.volume import Volume

KEY, OTHER = "a" * 40, "b" * 40
VOXELS = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
CARD = tiny_model().card


def made_up(seed: int = 0, cells: tuple[int, int, int] = (3, 4, 5)) -> Embedding:
    rng = np.random.default_rng(seed)
    fine = rng.normal(size=(*cells, 8)).astype(np.float16)
    coarse = rng.normal(size=(1, 2, 2, 16)).astype(np.float16)
    searched, anatomy = rng.random((2, *cells)) > 0.5
    return Embedding(fine, coarse, searched, anatomy, Grid((6, 8, 10), OBLIQUE), (2, 2, 2), (4, 8, 8), 2, "tiny", "scan", "published")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# --- key ------------------------------------------------------------------------------------------------------------------------------


def volume(voxels: np.ndarray = VOXELS, affine: np.ndarray = OBLIQUE, **fields: object) -> Volume:
    return Volume(voxels, Grid(voxels.shape, affine), **{"modality": "ct", "name": "scan", **fields})  # type: ignore[arg-type]


def one_voxel_changed() -> np.ndarray:
    voxels = VOXELS.copy()
    voxels[1, 2, 3] += 1
    return voxels


@pytest.mark.parametrize(
    "other",
    [
        volume(one_voxel_changed()),
        volume(VOXELS.astype(np.int32)),
        volume(VOXELS.reshape(4, 3, 5)),
        volume(VOXELS.view(np.uint16)),
        volume(affine=OBLIQUE + 1e-9 * np.eye(4, k=3)),
        volume(modality="mr"),
    ],
    ids=["one voxel", "voxel type", "shape", "signedness", "position", "modality"],
)
def test_key_changes_with_everything_about_the_scan(other: Volume) -> None:
    assert cache_key(other, CARD) != cache_key(volume(), CARD)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "other"},
        {"spacing_mm": 1.5},
        {"intensity": Intensity(mr_foreground=False)},
        {"intensity": Intensity(ct_knots=((-1024, -1), (1000, 1)))},
        {"network": {}},
        {"training": {"step": 2}},
    ],
    ids=str,
)
def test_key_changes_with_the_model_card(change: dict[str, object]) -> None:
    assert cache_key(volume(), replace(CARD, **change)) != cache_key(volume(), CARD)  # type: ignore[arg-type]


def test_key_changes_with_the_preprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache_key(volume(), CARD)
    monkeypatch.setattr("UniversalAnatomicalEmbeddingLib.embedding.cache.PREPROCESS_VERSION", 999)
    assert cache_key(volume(), CARD) != before


def test_key_does_not_depend_on_the_name_or_the_memory_layout() -> None:
    key = cache_key(volume(), CARD)
    assert cache_key(volume(name="renamed"), CARD) == cache_key(volume(np.asfortranarray(VOXELS)), CARD) == key
    assert len(key) == 40 and set(key) <= set("0123456789abcdef")


# --- store and load -------------------------------------------------------------------------------------------------------------------


def test_stored_embedding_comes_back(cache: Cache) -> None:
    stored = made_up()
    cache.store(KEY, stored)
    loaded = cache.load(KEY, "other name")
    assert loaded is not None
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(stored, name))
        assert getattr(loaded, name).dtype == getattr(stored, name).dtype
    assert loaded.grid == stored.grid, "to the last bit"
    for name in ("fine_stride", "coarse_stride", "heads", "model_id", "pipeline", "native"):
        assert getattr(loaded, name) == getattr(stored, name)
    cache.store(KEY, replace(stored, native=Grid((3, 4, 5), OBLIQUE)))
    again = cache.load(KEY, "scan")
    assert again is not None and again.native == Grid((3, 4, 5), OBLIQUE)
    assert loaded.name == "other name"


def test_arrays_stay_on_disk_until_they_are_used(cache: Cache) -> None:
    cache.store(KEY, made_up())
    loaded = cache.load(KEY, "scan")
    assert loaded is not None and all(isinstance(getattr(loaded, name), np.memmap) for name in ARRAYS)
    loaded.fine[:] = 0
    again = cache.load(KEY, "scan")
    assert again is not None and np.any(again.fine != 0), "writing to a loaded array never reaches the disk"


def test_descriptors_come_back(cache: Cache) -> None:
    stored = made_up()
    cache.store(KEY, stored)
    points = stored.fine_grid.index_to_world([[0.5, 1.25, 3], [2, 0, 4]])
    loaded = cache.load(KEY, "scan")
    assert loaded is not None
    for found, expected in zip(loaded.descriptors(points), stored.descriptors(points), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_array_that_is_not_contiguous_is_stored(cache: Cache) -> None:
    stored = replace(made_up(), fine=made_up().fine[::-1, :, ::-1])
    cache.store(KEY, stored)
    loaded = cache.load(KEY, "scan")
    assert loaded is not None
    np.testing.assert_array_equal(loaded.fine, stored.fine)


def test_storing_again_replaces_the_entry(cache: Cache) -> None:
    cache.store(KEY, made_up(0))
    cache.store(KEY, made_up(1))
    loaded = cache.load(KEY, "scan")
    assert loaded is not None and names(cache.folder) == [KEY]
    np.testing.assert_array_equal(loaded.fine, made_up(1).fine)


def test_unknown_key_gives_nothing(cache: Cache) -> None:
    assert cache.load(KEY, "scan") is None
    cache.store(KEY, made_up())
    assert cache.load(OTHER, "scan") is None and names(cache.folder) == [KEY]


# --- damage ---------------------------------------------------------------------------------------------------------------------------


def truncate(entry: Path, name: str, length: int) -> None:
    data = (entry / name).read_bytes()
    (entry / name).write_bytes(data[:length] if length >= 0 else data[: len(data) + length])


def pickled(entry: Path) -> None:
    np.save(entry / "fine.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def edited(entry: Path, **fields: object) -> None:
    meta = json.loads((entry / "meta.json").read_text())
    (entry / "meta.json").write_text(json.dumps({**meta, **fields}))


DAMAGE = {
    "array cut short": lambda e: truncate(e, "fine.npy", -1),
    "header cut short": lambda e: truncate(e, "anatomy.npy", 40),
    "empty array file": lambda e: truncate(e, "coarse.npy", 0),
    "array missing": lambda e: (e / "coarse.npy").unlink(),
    "array of objects": pickled,
    "meta missing": lambda e: (e / "meta.json").unlink(),
    "meta empty": lambda e: truncate(e, "meta.json", 0),
    "meta cut short": lambda e: truncate(e, "meta.json", -5),
    "meta of binary rubbish": lambda e: (e / "meta.json").write_bytes(bytes(range(128, 256))),
    "meta of another kind": lambda e: (e / "meta.json").write_text("[1, 2]"),
    "foreign key": lambda e: edited(e, key=OTHER),
    "field missing": lambda e: (e / "meta.json").write_text(json.dumps({"key": KEY})),
    "checksum missing": lambda e: edited(e, checksums={}),
    "impossible affine": lambda e: edited(e, affine=[[0] * 4] * 4),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_entry_is_removed(cache: Cache, damage: str) -> None:
    cache.store(KEY, made_up(0))
    cache.store(OTHER, made_up(1))
    DAMAGE[damage](cache.folder / KEY)
    assert cache.load(KEY, "scan") is None
    assert names(cache.folder) == [OTHER]
    cache.store(KEY, made_up(0))
    assert cache.load(KEY, "scan") is not None


def test_no_flipped_bit_of_an_array_file_goes_unnoticed(cache: Cache) -> None:
    """Every bit of the header, which the array's own checksum does not cover, and some of the data."""
    stored = replace(made_up(), coarse=np.zeros((1, 1, 1, 16), np.float16))
    cache.store(KEY, stored)
    entry = cache.folder / KEY
    files = {p: p.read_bytes() for p in entry.iterdir()}
    unnoticed, raised = set(), set()
    data = files[entry / "fine.npy"]
    used = data.index(b"}") + 1
    for where, bit in [*itertools.product(range(used), range(8)), (128, 0), (500, 7), (len(data) - 1, 3)]:
        entry.mkdir(exist_ok=True)
        for path, content in files.items():
            path.write_bytes(content if path.name != "fine.npy" else data[:where] + bytes([data[where] ^ 1 << bit]) + data[where + 1 :])
        try:
            loaded = cache.load(KEY, "scan")
        except Exception as error:
            raised.add(type(error).__name__)
            continue
        same = loaded is None or (loaded.fine.dtype, loaded.fine.shape) == (stored.fine.dtype, stored.fine.shape)
        if not same or (loaded is not None and loaded.fine.tobytes() != stored.fine.tobytes()):
            unnoticed.add((where, bit))
    assert unnoticed == set() and raised == set()


def test_failed_write_leaves_nothing_and_keeps_the_old_entry(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store(KEY, made_up(0))
    save, calls = np.save, []

    def full_disk(path: Path, array: np.ndarray) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(path, array)

    monkeypatch.setattr(np, "save", full_disk)
    for key in (KEY, OTHER):
        calls.clear()
        with pytest.raises(OSError, match="No space left"):
            cache.store(key, made_up(1))
        assert names(cache.folder) == [KEY]
    loaded = cache.load(KEY, "scan")
    assert loaded is not None
    np.testing.assert_array_equal(loaded.fine, made_up(0).fine)


def test_entry_appears_only_when_it_is_complete(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    save, seen = np.save, []

    def watching(path: Path, array: np.ndarray) -> None:
        save(path, array)
        seen.append(cache.load(KEY, "scan"))

    monkeypatch.setattr(np, "save", watching)
    cache.store(KEY, made_up())
    assert seen == [None] * 4 and cache.load(KEY, "scan") is not None


def test_two_processes_that_store_the_same_scan_do_not_hinder_each_other(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    save, rivals = np.save, [cache]

    def other_process_first(path: Path, array: np.ndarray) -> None:
        save(path, array)
        if path.name == "anatomy.npy" and rivals:
            rivals.pop().store(KEY, made_up())

    removed: list[Path] = []
    monkeypatch.setattr("shutil.rmtree", lambda path, **rest: removed.append(path))  # the other entry appears after this process has looked
    monkeypatch.setattr(np, "save", other_process_first)
    cache.store(KEY, made_up())
    assert cache.load(KEY, "scan") is not None
    assert cache.folder / KEY in removed


def test_a_failed_rename_is_not_hidden(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        cache.store(KEY, made_up())


def test_an_entry_that_vanishes_while_it_is_listed_is_passed_over(cache: Cache) -> None:
    cache.store(KEY, made_up())
    cache.store(OTHER, made_up())
    (cache.folder / OTHER / "anatomy.npy").unlink()
    (cache.folder / OTHER / "anatomy.npy").symlink_to(cache.folder / "removed by another process")
    assert [key for key, _, _ in cache.entries()] == [KEY]


# --- size -----------------------------------------------------------------------------------------------------------------------------


def filled(folder: Path, cap_entries: float) -> Cache:
    """Three entries, used one second after another, under a cap that holds ``cap_entries`` of them."""
    free = Cache(folder)
    for n, key in enumerate("123"):
        free.store(key * 40, made_up())
        os.utime(folder / (key * 40), (1000 + n, 1000 + n))
    size = free.entries()[0][1]
    return Cache(folder, int(cap_entries * size))


def kept(cache: Cache) -> str:
    return "".join(sorted(key[0] for key, _, _ in cache.entries()))


def test_entries_are_listed_oldest_first_with_their_size(tmp_path: Path) -> None:
    cache = filled(tmp_path, 3)
    entries = cache.entries()
    assert [key[0] for key, _, _ in entries] == ["1", "2", "3"] and [time for _, _, time in entries] == [1000, 1001, 1002]
    assert entries[0][1] == sum(p.stat().st_size for p in (tmp_path / entries[0][0]).iterdir()) > made_up().fine.nbytes


@pytest.mark.parametrize(("cap", "expected"), [(4.1, "1234"), (3.1, "234"), (2.1, "34"), (1.1, "4"), (0.1, "4")])
def test_oldest_entries_go_when_the_folder_is_full_but_never_the_new_one(tmp_path: Path, cap: float, expected: str) -> None:
    cache = filled(tmp_path, cap)
    cache.store("4" * 40, made_up())
    assert kept(cache) == expected


def test_using_an_entry_keeps_it(tmp_path: Path) -> None:
    cache = filled(tmp_path, 3.1)
    assert cache.load("1" * 40, "scan") is not None
    cache.store("4" * 40, made_up())
    assert kept(cache) == "134"


def test_new_entry_stays_even_when_the_others_were_used_later(tmp_path: Path) -> None:
    cache = filled(tmp_path, 1.1)
    for key in "123":
        os.utime(tmp_path / (key * 40), (4e9, 4e9))
    cache.store("4" * 40, made_up())
    assert kept(cache) == "4"


def test_evicted_embedding_that_is_in_use_stays_readable(tmp_path: Path) -> None:
    cache = filled(tmp_path, 1.1)
    loaded = cache.load("1" * 40, "scan")
    assert loaded is not None
    cache.store("4" * 40, made_up(4))
    assert kept(cache) == "4"
    np.testing.assert_array_equal(loaded.fine, made_up().fine)


# --- the folder -----------------------------------------------------------------------------------------------------------------------


def test_clearing_removes_the_entries(cache: Cache) -> None:
    cache.store(KEY, made_up())
    cache.store(OTHER, made_up())
    assert cache.clear() == 2 and names(cache.folder) == [] and cache.entries() == []


def test_clearing_leaves_foreign_files_alone(cache: Cache) -> None:
    cache.store(KEY, made_up())
    (cache.folder / "notes.txt").write_text("mine")
    (cache.folder / "scans").mkdir()
    (cache.folder / "scans" / "a.nii").write_text("mine")
    assert cache.clear() == 1 and names(cache.folder) == ["notes.txt", "scans"]


def test_foreign_folder_is_neither_counted_nor_removed_although_it_holds_a_meta_json(cache: Cache) -> None:
    cache.store(KEY, made_up())
    (cache.folder / "study").mkdir()
    (cache.folder / "study" / "meta.json").write_text("{}")
    assert [key for key, _, _ in cache.entries()] == [KEY]
    assert cache.clear() == 1 and names(cache.folder) == ["study"]


def test_folder_that_does_not_exist_is_an_empty_cache(cache: Cache) -> None:
    assert cache.entries() == [] and cache.clear() == 0 and not cache.folder.exists()


def test_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UAE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOCALAPPDATA", "/of/another/system")
    assert default_folder() == Path.home() / ".cache" / "uae"
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/cache")
    assert default_folder() == Path("/some/cache/uae")
    monkeypatch.setenv("UAE_CACHE", "~/mine")
    assert default_folder() == Path.home() / "mine"


def test_default_folder_on_a_mac_is_where_its_caches_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UAE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(platformdirs, "PlatformDirs", MacOS)
    assert default_folder() == Path.home() / "Library" / "Caches" / "uae"


def test_what_a_killed_process_left_half_written_goes_with_the_next_entry(cache: Cache) -> None:
    cache.store(KEY, made_up())
    old, growing, other = (cache.folder / name for name in (".partial-old", ".partial-new", "notes"))
    for folder in (old, growing, other):
        folder.mkdir()
        (folder / "fine.npy").write_bytes(b"half")
    for folder in (old, other):
        os.utime(folder, (1e9, 1e9))
    cache.store(OTHER, made_up(1))
    assert names(cache.folder) == sorted([".partial-new", KEY, OTHER, "notes"])
