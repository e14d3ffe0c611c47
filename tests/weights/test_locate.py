"""Finding model files: which folders, which files, and which published file each one is."""

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
from nova3d_core.weights.discovery.registry import KNOWN_FILES
from nova3d_core.weights.files.pickles import LEGACY_MAGIC

links = pytest.mark.skipif(sys.platform == "win32", reason="making links needs a right on Windows")
sparse = pytest.mark.skipif(sys.platform == "win32", reason="files with holes need an extra call")


@pytest.fixture
def comfyui(tmp_path) -> Path:
    """ComfyUI with this pack in custom_nodes; returns the pack's core folder."""
    for folder in ("models/nova3d", "models/checkpoints", "models/loras"):
        (tmp_path / "ComfyUI" / folder).mkdir(parents=True)
    package = tmp_path / "ComfyUI" / "custom_nodes" / "NOVA3D" / "nova3d_core"
    package.mkdir(parents=True)
    return package


class TestDefaultFolders:
    def test_the_argument_wins_over_the_variable_and_comfyui(self, tmp_path, comfyui):
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        variable = {FOLDERS_VARIABLE: str(tmp_path / "b")}
        assert default_folders([tmp_path / "a"], variable, comfyui) == (tmp_path / "a",)

    def test_the_variable_may_list_several_and_wins_over_comfyui(self, tmp_path, comfyui):
        listed = (tmp_path, tmp_path / "ComfyUI")
        variable = {FOLDERS_VARIABLE: os.pathsep.join(map(str, listed))}
        assert default_folders((), variable, comfyui) == listed

    def test_comfyuis_folders_that_concern_us_are_used_if_they_are_there(self, comfyui):
        models = comfyui.parents[2] / "models"
        assert default_folders((), {}, comfyui) == (models / "nova3d", models / "checkpoints")

    @links
    def test_a_pack_linked_into_custom_nodes_belongs_to_that_comfyui(self, tmp_path, comfyui):
        (tmp_path / "elsewhere" / "nova3d_core").mkdir(parents=True)
        link = comfyui.parents[1] / "linked"
        link.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        models = comfyui.parents[2] / "models"
        found = default_folders((), {}, link / "nova3d_core")
        assert found == (models / "nova3d", models / "checkpoints")

    def test_outside_comfyui_there_is_no_default(self, tmp_path):
        assert default_folders((), {}, tmp_path / "site-packages" / "nova3d_core") == ()
        assert default_folders((), {FOLDERS_VARIABLE: ""}, Path("/")) == ()

    def test_a_folder_that_is_not_there_is_named_with_its_origin(self, tmp_path):
        variable = {FOLDERS_VARIABLE: str(tmp_path / "gone")}
        with pytest.raises(InputError, match=f"gone, given by {FOLDERS_VARIABLE}"):
            default_folders((), variable)
        with pytest.raises(InputError, match="gone, given by the argument"):
            find_models([tmp_path / "gone"])


def test_model_like_files_are_listed_at_any_depth_and_no_others(tmp_path, write_model, small_unet):
    write_model(tmp_path / "deep" / "er" / "a.safetensors", small_unet(1280))
    write_model(tmp_path / "B.SFT", small_unet(256))
    for name in ("readme.md", "model_index.json", "a.safetensors.index.json", ".git/x.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    found = {file.path.name: file.family for file in find_models([tmp_path])}
    assert found == {"a.safetensors": "sv3d_p", "B.SFT": "sv3d_u"}


def test_a_single_file_may_be_given(tmp_path, write_model, small_unet):
    path = write_model(tmp_path / "m.safetensors", small_unet(1280))
    assert [file.path for file in find_models([path, tmp_path])] == [path]


@links
def test_linked_folders_are_followed_once_and_loops_end(tmp_path, write_model, small_unet):
    write_model(tmp_path / "store" / "m.safetensors", small_unet(1280))
    models = tmp_path / "models"
    models.mkdir()
    (models / "link").symlink_to(tmp_path / "store", target_is_directory=True)
    (tmp_path / "store" / "loop").symlink_to(models, target_is_directory=True)
    assert [f.path for f in find_models([models])] == [models / "link" / "m.safetensors"]


@links
def test_a_link_to_nothing_is_a_problem_of_that_file_alone(tmp_path, write_model, small_unet):
    write_model(tmp_path / "m.safetensors", small_unet(1280))
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    gone, whole = find_models([tmp_path])
    assert "a link to a file that is gone" in gone.problem
    assert (whole.family, whole.problem) == ("sv3d_p", None)


@pytest.mark.parametrize("ending", [".part", ".crdownload", ".incomplete", ".aria2"])
def test_an_unfinished_download_is_listed_as_such(tmp_path, ending):
    (tmp_path / f"svd_xt.safetensors{ending}").write_bytes(b"x" * 99)
    (file,) = find_models([tmp_path])
    assert "an unfinished download" in file.problem
    assert (file.bytes, file.identity, file.known) == (99, None, None)


def test_a_file_that_aria2_is_still_filling_is_not_taken_for_whole(
    tmp_path, write_model, small_unet
):
    path = write_model(tmp_path / "m.safetensors", small_unet(1280))
    assert inspect_file(path).problem is None
    (tmp_path / "m.safetensors.aria2").write_bytes(b"state")
    assert "still being downloaded" in inspect_file(path).problem


@sparse
class TestMatching:
    """Which published file a real key list under some name is taken for."""

    @pytest.fixture
    def look(self, tmp_path, write_model, manifest):
        def look_at_file(name: str, keys: str, code: str = "F32"):
            return inspect_file(write_model(tmp_path / name, manifest(keys), code))

        return look_at_file

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
    def test_a_name_or_a_resaved_name_with_the_right_contents(self, look, name, keys, code, file):
        found = look(name, keys, code)
        assert found.known.file == file
        assert found.matched_by == "name and content"
        resaved = found.known.dtype not in (None, found.identity.dtype)
        assert any("Saved again in" in remark for remark in found.notes) is resaved

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
    def test_files_that_share_a_name_are_told_by_their_repositorys_folder(
        self, look, folder, source
    ):
        name = f"{folder}/unet/diffusion_pytorch_model.fp16.safetensors"
        found = look(name, "svd_xt_diffusers_unet", "F16")
        assert found.known.source == source

    def test_files_that_only_a_name_could_tell_stay_open(self, look):
        found = look("clip.safetensors", "svd_diffusers_image_encoder")
        assert (found.known, found.family) == (None, "svd")
        assert "Only name and folder could tell which it is" in found.notes[-1]

    def test_contents_win_over_a_wrong_name(self, look):
        found = look("sv3d_p.safetensors", "sv3d_u_sgm")
        assert (found.family, found.known.file) == ("sv3d_u", "sv3d_u.safetensors")
        assert found.matched_by == "content"
        assert "Named as sv3d_p.safetensors" in found.notes[0]
        assert "holds something else: sv3d_u" in found.notes[0]

    def test_a_base_model_named_as_v3d_is_said_to_be_more_than_v3d(self, look):
        found = look("V3D.safetensors", "svd_xt_sgm")
        assert (found.family, found.identity.ambiguous_with, found.known) == ("v3d", ("svd",), None)
        assert "differs from the published V3D.ckpt, which holds unet, vae." in found.notes[-1]

    def test_another_size_than_the_published_one_is_remarked(self, tmp_path, write_model, manifest):
        path = tmp_path / "svd_xt.safetensors"
        found = inspect_file(write_model(path, manifest("svd_xt_sgm"), "F32", {"note": "mine"}))
        assert found.known.file == "svd_xt.safetensors"
        expected = f"Has {found.bytes:,} bytes; the published file has 9,559,625,980."
        assert found.notes == (expected,)

    def test_a_shard_is_said_to_be_one(self, look):
        name = "unet/diffusion_pytorch_model-00002-of-00003.safetensors"
        assert "Shard 2 of 3: of no use alone." in look(name, "svd_diffusers_vae").notes

    def test_missing_are_exactly_the_known_files_not_found(self, look, tmp_path):
        look("svd_xt.safetensors", "svd_xt_sgm")
        look("odd name.safetensors", "sv3d_p_sgm", "F16")
        (tmp_path / "sv3d_u.safetensors").write_text("<html>")
        found = find_models([tmp_path])
        present = {file.known.file for file in found if file.known}
        assert present == {"svd_xt.safetensors", "sv3d_p.safetensors"}
        missing = missing_files(found)
        assert [k for k in KNOWN_FILES if k.file not in present] == missing

    def test_fifty_checkpoints_are_read(self, look, tmp_path, record_property):
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
def test_a_pickle_that_cannot_be_followed_is_told_by_name_and_size(
    tmp_path, name, size, file, matched_by
):
    facts = b"".join(pickle.dumps(part, 2) for part in (LEGACY_MAGIC, 1001, {}))
    with (tmp_path / name).open("wb") as stream:
        stream.write(facts + b"\x80\x02broken")
        stream.truncate(size)
    found = inspect_file(tmp_path / name)
    assert (found.known and found.known.file, found.matched_by) == (file, matched_by)
    assert any("told by name and size" in remark for remark in found.notes)
    wrong_size = "Has 5,000 bytes; the published file has 6,490,292,209."
    assert (wrong_size in found.notes) is (file is None)


def test_progress_counts_the_files_and_cancel_stops_between_them(tmp_path, write_model, small_unet):
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
