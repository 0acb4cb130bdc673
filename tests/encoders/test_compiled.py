"""The frozen trunk in another runtime: torch's features or none, and never under torch's name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from embedcal.cache import open_cache
from embedcal.caching import cache as build
from embedcal.cli import app
from embedcal.datasets.places import data_dir
from embedcal.encoders import compiled as runtimes
from embedcal.encoders.again import encoder_again
from embedcal.encoders.clip import ClipEncoder
from embedcal.encoders.compiled import PARITY, check_parity, compiled
from embedcal.encoders.load import fast_in_bf16, load_encoder
from embedcal.encoders.weights import randomise
from embedcal.types import EmbedcalError

RUNTIMES = ("openvino", "onnxruntime")
TOWERS = ("resnet", "vit")

needed = {name: pytest.importorskip(name) for name in (*RUNTIMES, "onnx", "onnxscript")}


@cache
def vit() -> Any:
    """Two blocks of open_clip's ViT, random weights that all matter."""
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=48,
        vision_cfg=open_clip.CLIPVisionCfg(
            image_size=32, patch_size=16, width=64, layers=2, head_width=32
        ),
        text_cfg=open_clip.CLIPTextCfg(context_length=77, width=64, heads=2, layers=1),
        quick_gelu=True,
    ).eval()
    randomise(model, 0)
    return model


def made(tower: str, runtime: str = "torch") -> ClipEncoder:
    if tower == "resnet":
        encoder = load_encoder("tiny", runtime=runtime)
        assert isinstance(encoder, ClipEncoder)
        return encoder
    precision = "fp32" if runtime == "torch" else f"fp32-{runtime}"
    tokenizer = open_clip.get_tokenizer("RN50")
    return ClipEncoder(vit(), tokenizer, name="small", weights="random:0", precision=precision)


def noise(encoder: ClipEncoder, n: int, seed: int = 0) -> np.ndarray:
    shape = (n, *encoder._size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@cache
def ready(tower: str, runtime: str) -> ClipEncoder:
    """An encoder that has seen its first batch, of four."""
    encoder = made(tower, runtime)
    encoder.images(noise(encoder, 4), ("embedding",))
    return encoder


@pytest.fixture(autouse=True, scope="module")
def _exported_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An export takes seconds, and these towers are few: each is written once, then copied."""
    export, kept = runtimes._export, tmp_path_factory.mktemp("exported")

    def once(trunk: nn.Module, size: tuple[int, int], path: Path) -> None:
        folder = kept / f"{sum(p.numel() for p in trunk.parameters())}-{size}"
        if not folder.exists():
            folder.mkdir()
            export(trunk, size, folder / path.name)
        shutil.copytree(folder, path.parent, dirs_exist_ok=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtimes, "_export", once)
        yield


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Tensor], Tensor]], None]:
    """Make both runtimes run torch's trunk with something done to its output; exports nothing."""

    def install(harm: Callable[[Tensor], Tensor]) -> None:
        def wrong(trunk: nn.Module, runtime: str, size: tuple[int, int]) -> runtimes.Trunk:
            return lambda x: harm(trunk(x))

        monkeypatch.setattr(runtimes, "compiled", wrong)

    return install


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(EmbedcalError) as told:
        call()
    assert "\n" not in str(told.value)
    return str(told.value)


# -- features --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_features_are_torchs_at_every_level_and_batch_size(runtime: str, tower: str) -> None:
    plain, encoder = made(tower), ready(tower, runtime)
    levels = tuple(plain.meta.shapes)
    assert encoder.meta.shapes == plain.meta.shapes
    for n in (1, 4, 7):
        pixels = noise(plain, n, seed=n)
        wanted, found = plain.images(pixels, levels), encoder.images(pixels, levels)
        assert tuple(found) == levels
        for level in levels:
            assert found[level].dtype == np.float32
            scale = np.abs(wanted[level]).max()
            assert scale > 0
            assert np.abs(found[level] - wanted[level]).max() < 1e-5 * scale, (level, n)
        # Not torch again under another name, whose last bits would be torch's.
        assert any(not np.array_equal(found[k], wanted[k]) for k in levels)


def test_the_vit_of_these_tests_has_the_fused_attention_that_breaks_exporters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    fused = torch._native_multi_head_attention

    def counted(*args: Any) -> Any:
        calls.append(1)
        return fused(*args)

    monkeypatch.setattr(torch, "_native_multi_head_attention", counted)
    encoder = made("vit")
    encoder.images(noise(encoder, 2), ("embedding",))
    assert len(calls) == 2  # one a block


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_batch_is_not_overwritten_by_the_next(runtime: str) -> None:
    encoder = ready("vit", runtime)
    x = encoder._normalised(noise(encoder, 2, seed=1))
    assert encoder._elsewhere is not None
    kept = encoder._elsewhere(x, dict)
    copy = kept.clone()
    encoder._elsewhere(-x, dict)
    assert torch.equal(kept, copy)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_ran_is_on_record(runtime: str) -> None:
    plain, meta = made("resnet").meta, made("resnet", runtime).meta
    assert meta.precision == f"fp32-{runtime}"
    assert meta.library == f"{plain.library}, {runtime} {needed[runtime].__version__.split('-')[0]}"
    assert (meta.weights_sha256, meta.preprocessing) == (plain.weights_sha256, plain.preprocessing)


def test_gradients_and_text_are_torchs() -> None:
    plain, encoder = made("resnet"), ready("resnet", "onnxruntime")
    pixels = noise(plain, 2)
    assert torch.equal(encoder._image_trunk(pixels), plain._image_trunk(pixels))
    for level, wanted in plain.text(["a photo of a bird"]).items():
        assert np.array_equal(encoder.text(["a photo of a bird"])[level], wanted)


# -- parity ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_that_is_off_is_refused_on_the_first_batch(
    runtime: str, tower: str, broken: Callable[..., None]
) -> None:
    def one_image(out: Tensor) -> Tensor:
        out = out.clone()
        out[2] += 0.1 * out[2].std() * torch.linspace(-1, 1, out[2].numel()).view_as(out[2])
        return out

    broken(one_image)
    encoder = made(tower, runtime)
    for seed in (0, 1):  # and it does not pass by trying again
        told = refused(lambda s=seed: encoder.images(noise(encoder, 4, seed=s), ("embedding",)))
        assert f"expected {runtime} to give torch's features to a cosine of 0.99999" in told
        assert "in 1 of 4 images" in told
        assert told.endswith("use --runtime torch")


def test_a_faithful_runtime_passes_once_and_torch_rests(
    broken: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    broken(lambda out: out)
    monkeypatch.setattr(runtimes, "check_parity", lambda *_, **__: calls.append(1))
    encoder = made("vit", "openvino")
    for n in (2, 3):
        encoder.images(noise(encoder, n), ("pooled",))
    assert calls == [1]


def test_another_shape_is_refused(broken: Callable[..., None]) -> None:
    broken(lambda out: out[:, :-1])
    encoder = made("vit", "openvino")
    told = refused(lambda: encoder.images(noise(encoder, 2), ("embedding",)))
    assert "output (2, 64) from openvino, found (2, 63)" in told


def at_cosine(cosine: float, n: int = 3) -> tuple[Tensor, Tensor]:
    """Rows (n, 2), and the same where the last is turned until it has that cosine."""
    wanted = torch.tensor([[3.0, 0.0]] * n, dtype=torch.float64)
    found = wanted.clone()
    found[-1] = 5 * torch.tensor([cosine, (1 - cosine**2) ** 0.5], dtype=torch.float64)
    return found, wanted


@pytest.mark.parametrize(
    ("cosine", "passes"), [(PARITY + 1e-6, True), (PARITY - 1e-6, False), (-1.0, False)]
)
def test_the_bound_is_on_the_worst_row(cosine: float, passes: bool) -> None:
    assert PARITY == 0.99999
    found, wanted = at_cosine(cosine)
    good = {"pooled": wanted}

    def check() -> None:
        check_parity(
            {**good, "embedding": found}, {**good, "embedding": wanted}, runtime="openvino"
        )

    if passes:
        check()
    else:
        assert f"found {cosine:.6f} at level embedding in 1 of 3 images" in refused(check)


def test_nan_is_off_and_torchs_own_nan_is_not_the_runtimes_fault() -> None:
    ones = torch.ones(3, 4)
    bad = ones.clone()
    bad[1, 2] = torch.nan
    assert "found nan at level embedding in 1 of 3" in refused(
        lambda: check_parity({"embedding": bad}, {"embedding": ones}, runtime="onnxruntime")
    )
    check_parity({"embedding": bad}, {"embedding": bad}, runtime="onnxruntime")
    zeros = torch.zeros(3, 4)
    check_parity({"embedding": zeros}, {"embedding": zeros}, runtime="onnxruntime")
    assert "in 3 of 3" in refused(
        lambda: check_parity({"embedding": zeros}, {"embedding": ones}, runtime="onnxruntime")
    )


# -- exporting -------------------------------------------------------------------------------------


class Choosing(nn.Module):
    """A trunk that looks at its values to decide what to do, which no exporter can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight if x.sum() > 0 else -x


def test_a_trunk_that_cannot_be_exported_is_told_in_one_line() -> None:
    told = refused(lambda: compiled(Choosing().eval(), "openvino", (8, 8)))
    assert told.startswith("expected a trunk that openvino can run, found ")
    assert told.endswith("use --runtime torch")
    assert len(told) < 300


def test_nothing_is_sent_and_nothing_but_the_program_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_home: Path
) -> None:
    """OpenVINO's converter reports its use over the network; reading a file does not."""
    telemetry = pytest.importorskip("openvino_telemetry")
    monkeypatch.setattr(telemetry.Telemetry, "init", lambda *_, **__: pytest.fail("telemetry"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = compiled(nn.Conv2d(3, 2, 1).eval(), "openvino", (8, 8))
    assert run(torch.zeros(3, 3, 8, 8)).shape == (3, 2, 8, 8)
    assert not list(tmp_path.iterdir())
    assert [path.name for path in own_home.iterdir()] == ["programs"]


def test_a_second_build_exports_nothing_and_gives_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For both runtimes: they run one program. Where a bit of it has changed, it is made anew."""
    calls: list[Path] = []
    export = runtimes._export

    def counted(trunk: nn.Module, size: tuple[int, int], path: Path) -> None:
        calls.append(path)
        export(trunk, size, path)

    monkeypatch.setattr(runtimes, "_export", counted)
    found = {}
    for runtime in (*RUNTIMES, *RUNTIMES):
        encoder = made("resnet", runtime)
        pixels = noise(encoder, 3)
        out = encoder.images(pixels, ("embedding",))["embedding"]
        assert np.array_equal(found.setdefault(runtime, out), out)
    assert len(calls) == 1
    (kept,) = (data_dir() / "programs").glob("*/*.data")
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 64
    kept.write_bytes(data)
    again = made("resnet", "openvino").images(pixels, ("embedding",))["embedding"]
    assert len(calls) == 2
    assert np.array_equal(again, found["openvino"])


# -- asking for one --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"runtime": "tensorrt"}, "among torch, openvino, onnxruntime, found 'tensorrt'"),
        ({"runtime": "openvino", "precision": "bf16"}, "--precision fp32 with --runtime openvino"),
        ({"runtime": "onnxruntime", "device": "meta"}, "--device cpu with --runtime onnxruntime"),
        ({"precision": "fp64"}, "among fp32, bf16, fp16, auto, found 'fp64'"),
        ({"backbone": "FILE:Mine", "runtime": "openvino"}, "--runtime torch with FILE:Mine"),
    ],
)
def test_what_does_not_go_together(options: dict[str, str], says: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("raise SystemExit('this must not run')\n")
    backbone = options.pop("backbone", "tiny").replace("FILE", str(file))
    told = refused(lambda: load_encoder(backbone, **options))  # type: ignore[arg-type]
    assert says in told.replace(str(file), "FILE")


@pytest.mark.parametrize(
    ("runtime", "gone", "says"),
    [
        ("openvino", {"openvino"}, "openvino for --runtime openvino, found it not installed"),
        ("onnxruntime", {"onnx", "onnxscript"}, "onnx and onnxscript .* found them not installed"),
    ],
)
def test_a_runtime_that_is_not_installed_names_its_extra(
    runtime: str, gone: set[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None if name in gone else True)
    extra = {"openvino": "openvino", "onnxruntime": "onnx"}[runtime]
    with pytest.raises(EmbedcalError, match=rf"{says}: pip install 'embedcal\[{extra}\]'"):
        load_encoder("tiny", runtime=runtime)
    load_encoder("tiny")


# -- a cache of it ---------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Nine pictures of noise and the CSV file that lists them."""
    rng = np.random.default_rng(0)
    lines = ["path,y,split"]
    for i in range(9):
        pixels = rng.integers(0, 256, (70, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{i % 2},{('train', 'val', 'test')[i // 3]}")
    file = tmp_path / "table.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_cache_of_a_runtime_is_another_cache(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"backbone": "tiny", "templates": "simple"}
    plain = build(table, **options)
    other = build(table, runtime="onnxruntime", explain_miss=True, **options)
    assert plain.path != other.path
    assert any("precision: wanted 'fp32-onnxruntime', found 'fp32'" in n for n in other.notes)
    with open_cache(plain.path) as a, open_cache(other.path) as b:
        assert (a.meta.precision, b.meta.precision) == ("fp32", "fp32-onnxruntime")
        assert a.meta.fingerprint != b.meta.fingerprint
        assert "onnxruntime " in b.meta.library
        near = np.abs(a.read("embedding") - b.read("embedding")).max()
        assert 0 < near < 1e-4
        assert encoder_again(b.meta).meta.precision == "fp32"  # on a machine without the runtime

    # What exists is returned at once: nothing is exported for it. The command asks for the same.
    # Where there is a GPU, auto is the CPU all the same.
    monkeypatch.setattr(runtimes, "compiled", lambda *_: pytest.fail("compiled again"))
    monkeypatch.setattr("embedcal.heads.torch_device", lambda _: "cuda")
    capsys.readouterr()
    asked = ["cache", str(table), "--backbone", "tiny", "--templates", "simple", "--json"]
    app([*asked, "--runtime", "onnxruntime"], standalone_mode=False, prog_name="embedcal")
    assert json.loads(capsys.readouterr().out)["path"] == str(other.path)


def test_a_build_stops_at_a_runtime_that_is_off(table: Path, broken: Callable[..., None]) -> None:
    broken(lambda out: out.flip(0))
    out = table.with_name("out.h5")
    told = refused(lambda: build(table, backbone="tiny", runtime="openvino", out=out))
    assert "expected openvino to give torch's features" in told
    with pytest.raises(EmbedcalError):
        open_cache(out)


# -- precision auto --------------------------------------------------------------------------------


@pytest.mark.parametrize("amx", [True, False])
def test_auto_is_bf16_where_the_processor_has_units_for_it(
    amx: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx, "avx2": True})
    assert load_encoder("tiny", precision="auto").meta.precision == ("bf16" if amx else "fp32")
    auto = load_encoder("tiny", precision="auto", runtime="openvino")
    assert auto.meta.precision == "fp32-openvino"
    assert not fast_in_bf16("meta")


@pytest.mark.parametrize("ampere", [True, False])
def test_auto_on_a_gpu_asks_that_gpu(ampere: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def supported(including_emulation: bool = True) -> bool:
        return ampere or including_emulation  # a Volta emulates, slowly

    class On:
        def __init__(self, device: Any) -> None:
            asked.append(device)

        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(torch.cuda, "device", On)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert fast_in_bf16("cuda:1") is ampere
    assert asked == ["cuda:1"]


def test_auto_is_fp32_for_a_plug_in_that_takes_no_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    file = tmp_path / "mine.py"
    file.write_text(
        "from embedcal.encoders.base import EncoderMeta\n"
        "class Mine:\n"
        "    meta = EncoderMeta(name='m', weights='', weights_sha256='', library='',\n"
        "        preprocessing={}, precision='fp32', shapes={'embedding': (3,)})\n"
        "    prepare = images = text = projection = lambda self, *_: None\n"
    )
    assert load_encoder(f"{file}:Mine", precision="auto").meta.precision == "fp32"


# -- the way to the device -------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("tower", TOWERS)
def test_a_gpu_gives_the_features_of_the_cpu(tower: str) -> None:
    plain = made(tower)
    pixels = noise(plain, 5)
    wanted = {k: v.copy() for k, v in plain.images(pixels, tuple(plain.meta.shapes)).items()}
    moved = (
        load_encoder("tiny", device="cuda")
        if tower == "resnet"
        else ClipEncoder(
            vit(), open_clip.get_tokenizer("RN50"), name="s", weights="", device="cuda"
        )
    )
    for level, found in moved.images(pixels, tuple(wanted)).items():
        assert np.abs(found - wanted[level]).max() < 1e-4 * np.abs(wanted[level]).max()


def test_pixels_are_copied_whatever_their_memory_and_pinned_for_a_gpu_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = made("vit")
    pixels = noise(encoder, 6)
    wanted = encoder._normalised(pixels[::2].copy())
    pixels.flags.writeable = False  # a memory map's are not either
    assert torch.equal(encoder._normalised(pixels[::2]), wanted)

    seen: list[bool] = []
    real = torch.tensor

    def tensor(data: Any, *, pin_memory: bool = False, **options: Any) -> Tensor:
        seen.append(pin_memory)
        return real(data, **options)

    class Gpu:
        type = "cuda"

    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(Tensor, "to", lambda self, *_, **__: self.float())
    encoder._normalised(pixels)
    monkeypatch.setattr(encoder, "_device", Gpu())
    encoder._normalised(pixels)
    assert seen == [False, True]
