"""Finding model files in folders, and matching them to published files."""

from __future__ import annotations

import os
import pickle
import sys
import time
from pathlib import Path

import pytest

from nova3d_core.errors import Cancelled, InputError
from nova3d_core.progress import Progress
from nova3d_core.weights.discovery.locate import (
    FOLDERS_VARIABLE,
    default_folders,
    find_models,
    inspect_file,
    missing_files,
)
from nova3d_core.weights.discovery.registry import PUBLISHED_FILES
from nova3d_core.weights.files.pickles import LEGACY_MAGIC

links = pytest.mark.skipif(sys.platform == "win32", reason="symlinks need a privilege on Windows")
sparse = pytest.mark.skipif(sys.platform == "win32", reason="sparse files need an extra call")


@pytest.fixture
def comfyui(tmp_path) -> Path:
    """A ComfyUI with this pack in custom_nodes; returns the pack's core folder."""
    for folder in ("models/nova3d", "models/checkpoints", "models/loras"):
        (tmp_path / "ComfyUI" / folder).mkdir(parents=True)
    package = tmp_path / "ComfyUI" / "custom_nodes" / "NOVA3D" / "nova3d_core"
    package.mkdir(parents=True)
    return package


class TestDefaultFolders:
    def test_argument_overrides_the_variable_and_comfyui(self, tmp_path, comfyui):
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        variable = {FOLDERS_VARIABLE: str(tmp_path / "b")}
        assert default_folders([tmp_path / "a"], variable, comfyui) == (tmp_path / "a",)

    def test_variable_lists_several_folders_and_overrides_comfyui(self, tmp_path, comfyui):
        listed = (tmp_path, tmp_path / "ComfyUI")
        variable = {FOLDERS_VARIABLE: os.pathsep.join(map(str, listed))}
        assert default_folders((), variable, comfyui) == listed

    def test_uses_the_existing_comfyui_folders(self, comfyui):
        models = comfyui.parents[2] / "models"
        assert default_folders((), {}, comfyui) == (models / "nova3d", models / "checkpoints")

    @links
    def test_symlinked_pack_belongs_to_the_comfyui_of_the_link(self, tmp_path, comfyui):
        (tmp_path / "elsewhere" / "nova3d_core").mkdir(parents=True)
        link = comfyui.parents[1] / "linked"
        link.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        models = comfyui.parents[2] / "models"
        found = default_folders((), {}, link / "nova3d_core")
        assert found == (models / "nova3d", models / "checkpoints")

    def test_no_default_outside_comfyui(self, tmp_path):
        assert default_folders((), {}, tmp_path / "site-packages" / "nova3d_core") == ()
        assert default_folders((), {FOLDERS_VARIABLE: ""}, Path("/")) == ()

    def test_missing_folder_is_reported_with_its_origin(self, tmp_path):
        variable = {FOLDERS_VARIABLE: str(tmp_path / "gone")}
        with pytest.raises(InputError, match=f"gone, set by {FOLDERS_VARIABLE}"):
            default_folders((), variable)
        with pytest.raises(InputError, match="gone, set by the argument"):
            find_models([tmp_path / "gone"])


def test_finds_only_model_files_at_any_depth(tmp_path, write_model, small_unet):
    write_model(tmp_path / "deep" / "er" / "a.safetensors", small_unet(1280))
    write_model(tmp_path / "B.SFT", small_unet(256))
    for name in ("readme.md", "model_index.json", "a.safetensors.index.json", ".git/x.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    found = {file.path.name: file.family for file in find_models([tmp_path])}
    assert found == {"a.safetensors": "sv3d_p", "B.SFT": "sv3d_u"}


def test_accepts_a_single_file(tmp_path, write_model, small_unet):
    path = write_model(tmp_path / "m.safetensors", small_unet(1280))
    assert [file.path for file in find_models([path, tmp_path])] == [path]


@links
def test_follows_symlinked_folders_once(tmp_path, write_model, small_unet):
    write_model(tmp_path / "store" / "m.safetensors", small_unet(1280))
    models = tmp_path / "models"
    models.mkdir()
    (models / "link").symlink_to(tmp_path / "store", target_is_directory=True)
    (tmp_path / "store" / "loop").symlink_to(models, target_is_directory=True)
    assert [f.path for f in find_models([models])] == [models / "link" / "m.safetensors"]


@links
def test_broken_symlink_is_a_problem_of_that_file_only(tmp_path, write_model, small_unet):
    write_model(tmp_path / "m.safetensors", small_unet(1280))
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    gone, whole = find_models([tmp_path])
    assert "a broken link" in gone.problem
    assert (whole.family, whole.problem) == ("sv3d_p", None)


@pytest.mark.parametrize("ending", [".part", ".crdownload", ".incomplete", ".aria2"])
def test_lists_incomplete_downloads(tmp_path, ending):
    (tmp_path / f"svd_xt.safetensors{ending}").write_bytes(b"x" * 99)
    (file,) = find_models([tmp_path])
    assert "an incomplete download" in file.problem
    assert (file.bytes, file.identity, file.published) == (99, None, None)


def test_recognises_an_active_aria2_download(tmp_path, write_model, small_unet):
    path = write_model(tmp_path / "m.safetensors", small_unet(1280))
    assert inspect_file(path).problem is None
    (tmp_path / "m.safetensors.aria2").write_bytes(b"state")
    assert "still being downloaded" in inspect_file(path).problem


@sparse
class TestMatching:
    """Matching of published keys under various names to published files."""

    @pytest.fixture
    def look(self, tmp_path, write_model, manifest):
        def write_and_inspect(name: str, keys: str, code: str = "F32"):
            return inspect_file(write_model(tmp_path / name, manifest(keys), code))

        return write_and_inspect

    @pytest.mark.parametrize(
        ("name", "keys", "code", "file"),
        [
            ("svd_xt.safetensors", "svd_xt_sgm", "F32", "svd_xt.safetensors"),
            ("SVD.safetensors", "svd_xt_sgm", "F32", "svd.safetensors"),
            ("svd_xt_1_1.safetensors", "svd_xt_sgm", "F16", "svd_xt_1_1.safetensors"),
            ("svd-xt_fp16.safetensors", "svd_xt_sgm", "F16", "svd_xt.safetensors"),
            ("sv3d_p (1).safetensors", "sv3d_p_sgm", "F32", "sv3d_p.safetensors"),
            ("sv3d_u-bf16-pruned.safetensors", "sv3d_u_sgm", "BF16", "sv3d_u.safetensors"),
            ("V3D_512.safetensors", "v3d_512_sgm", "F16", "V3D.ckpt"),
            (
                "svd_xt_image_decoder.safetensors",
                "svd_xt_image_decoder_sgm",
                "F32",
                "svd_xt_image_decoder.safetensors",
            ),
            (
                "models--chenguolin--sv3d-diffusers/snapshots/1a/unet/"
                "diffusion_pytorch_model.safetensors",
                "sv3d_p_diffusers_unet",
                "F32",
                "unet/diffusion_pytorch_model.safetensors",
            ),
        ],
    )
    def test_matches_published_and_resaved_names(self, look, name, keys, code, file):
        found = look(name, keys, code)
        assert found.published.file == file
        assert found.matched_by == "name and content"
        resaved = found.published.dtype not in (None, found.identity.dtype)
        assert any("Re-saved as" in note for note in found.notes) is resaved

    @pytest.mark.parametrize(
        ("folder", "source"),
        [
            ("stable-video-diffusion-img2vid-xt", "stabilityai/stable-video-diffusion-img2vid-xt"),
            (
                "models--stabilityai--stable-video-diffusion-img2vid/snapshots/0",
                "stabilityai/stable-video-diffusion-img2vid",
            ),
        ],
    )
    def test_repository_folder_decides_between_files_of_the_same_name(self, look, folder, source):
        name = f"{folder}/unet/diffusion_pytorch_model.fp16.safetensors"
        found = look(name, "svd_xt_diffusers_unet", "F16")
        assert found.published.source == source

    def test_ambiguous_files_are_not_matched(self, look):
        found = look("clip.safetensors", "svd_diffusers_image_encoder")
        assert (found.published, found.family) == (None, "svd")
        assert "Several published files have these keys" in found.notes[-1]

    def test_contents_override_a_wrong_name(self, look):
        found = look("sv3d_p.safetensors", "sv3d_u_sgm")
        assert (found.family, found.published.file) == ("sv3d_u", "sv3d_u.safetensors")
        assert found.matched_by == "content"
        assert "Has the name of sv3d_p.safetensors" in found.notes[0]
        assert "but contains sv3d_u" in found.notes[0]

    def test_svd_named_v3d_has_a_note_on_the_difference(self, look):
        found = look("V3D.safetensors", "svd_xt_sgm")
        assert (found.family, found.identity.ambiguous_with, found.published) == (
            "v3d",
            ("svd",),
            None,
        )
        assert "differs from the published V3D.ckpt, which contains unet, vae." in found.notes[-1]

    def test_notes_a_size_that_differs_from_the_published_one(
        self, tmp_path, write_model, manifest
    ):
        path = tmp_path / "svd_xt.safetensors"
        found = inspect_file(write_model(path, manifest("svd_xt_sgm"), "F32", {"note": "mine"}))
        assert found.published.file == "svd_xt.safetensors"
        expected = f"Has {found.bytes:,} bytes; the published file has 9,559,625,980."
        assert found.notes == (expected,)

    def test_notes_a_shard(self, look):
        name = "unet/diffusion_pytorch_model-00002-of-00003.safetensors"
        assert "Shard 2 of 3: not usable on its own." in look(name, "svd_diffusers_vae").notes

    def test_missing_files_are_the_published_ones_not_found(self, look, tmp_path):
        look("svd_xt.safetensors", "svd_xt_sgm")
        look("odd name.safetensors", "sv3d_p_sgm", "F16")
        (tmp_path / "sv3d_u.safetensors").write_text("<html>")
        found = find_models([tmp_path])
        present = {file.published.file for file in found if file.published}
        assert present == {"svd_xt.safetensors", "sv3d_p.safetensors"}
        missing = missing_files(found)
        assert [k for k in PUBLISHED_FILES if k.file not in present] == missing

    def test_reads_fifty_checkpoints(self, look, tmp_path, record_property):
        for index in range(50):
            look(f"{index}.safetensors", ("svd_xt_sgm", "sv3d_p_sgm")[index % 2])
        start = time.perf_counter()
        found = find_models([tmp_path])
        record_property("seconds for 50 checkpoints", round(time.perf_counter() - start, 3))
        assert [file.family for file in found].count("svd") == 25
        assert [file.family for file in found].count("sv3d_p") == 25


@sparse
@pytest.mark.parametrize(
    ("name", "size", "file", "matched_by"),
    [
        ("V3D.ckpt", 6_490_292_209, "V3D.ckpt", "name and size"),
        ("model.ckpt", 6_490_292_209, "V3D.ckpt", "size"),
        ("mv_model_unet.pth", 5_000, "mv_model_unet.pth", "name"),
        ("V3D.ckpt", 5_000, None, None),
    ],
)
def test_unparsable_pickle_is_identified_by_name_and_size(tmp_path, name, size, file, matched_by):
    preamble = b"".join(pickle.dumps(part, 2) for part in (LEGACY_MAGIC, 1001, {}))
    with (tmp_path / name).open("wb") as stream:
        stream.write(preamble + b"\x80\x02broken")
        stream.truncate(size)
    found = inspect_file(tmp_path / name)
    assert (found.published and found.published.file, found.matched_by) == (file, matched_by)
    assert any("identified by name and size" in note for note in found.notes)
    wrong_size = "Has 5,000 bytes; the published file has 6,490,292,209."
    assert (wrong_size in found.notes) is (file is None)


def test_progress_counts_files_and_cancels_between_them(tmp_path, write_model, small_unet):
    for index in range(3):
        write_model(tmp_path / f"{index}.safetensors", small_unet(1280))
    steps = []
    find_models([tmp_path], Progress(lambda event: steps.append((event.step, event.total))))
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
    steps.clear()
    stop = Progress(lambda event: steps.append(event.step), lambda: len(steps) == 2)
    with pytest.raises(Cancelled):
        find_models([tmp_path], stop)
    assert steps == [0, 1]
