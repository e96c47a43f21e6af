"""Directions go to other tools and come back, and each tool applies them where we do.

What the others do is written down here anew, from their sources; where a tool can be imported, its
own code is asked too. The files under `foreign` were written by the tools' own code, but that of
persona-vectors, whose scripts save one stacked tensor: this one by the same two calls.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from workbench.cli import main
from workbench.directions import ReversionDirections
from workbench.drift import measure_drift
from workbench.editing import intervene
from workbench.edits import ablate, steer
from workbench.errors import (
    ConfigError,
    DegenerateDirectionError,
    LayerError,
    ProvenanceError,
    WorkbenchError,
)
from workbench.exchange import load_directions_from, save_directions_as
from workbench.files import file_hash
from workbench.penalties import Block
from workbench.readout import read_vocabulary
from workbench.vectors.files import FORMATS

FOREIGN = Path(__file__).parent / "foreign"
ROWS = torch.arange(1, 17, dtype=torch.float64).reshape(2, 8) / 4
"""What the files under `foreign` hold."""

SUFFIX = dict.fromkeys(FORMATS, ".pt") | {
    "repeng": ".gguf", "llama.cpp": ".gguf", "safetensors": ".safetensors", "npz": ".npz",
}  # fmt: skip


@pytest.fixture
def written(directions, tmp_path):
    """Write the directions, without layer 0 where it cannot be; return the file and them."""

    def write(format, layers=None, **options):
        layers = layers or ([1, 2] if format == "llama.cpp" else None)
        path = tmp_path / f"written{SUFFIX[format]}"
        save_directions_as(directions, path, format=format, layers=layers, **options)
        rows = [directions.layers.index(layer) for layer in layers or directions.layers]
        return path, directions.unit[rows], directions.gap[rows]

    return write


def tensors_of(path):
    import gguf

    return {one.name: torch.tensor(one.data) for one in gguf.GGUFReader(path).tensors}


def applied_by_llama(path, n_layers):
    """A buffer that starts with layer 1, copied from the file and then to the layers."""
    found = tensors_of(path)
    width = len(next(iter(found.values())))
    buffer = torch.zeros(n_layers * width)
    for name, vector in found.items():
        number = int(name.removeprefix("direction."))
        assert number != 0, "llama.cpp refuses the file"
        buffer[width * (number - 1) : width * number] += vector
    return {block: buffer[width * (block - 1) : width * block] for block in range(1, n_layers)}


def applied(path, format, n_layers):
    """By block, what the tool adds to the output of the block at strength 1."""
    if format == "steering-vectors":
        fields = torch.load(path, weights_only=True)
        assert fields.keys() == {"layer_activations", "layer_type"}
        assert fields["layer_type"] == "decoder_block"
        return fields["layer_activations"]
    if format == "repeng":
        return {int(name.split(".")[1]): vector for name, vector in tensors_of(path).items()}
    if format == "llama.cpp":
        return applied_by_llama(path, n_layers)
    if format == "persona-vectors":  # the vector of row `layer` is added at `layer - 1`
        table = torch.load(path, weights_only=True)
        assert not table[0].any()
        return {layer - 1: table[layer] for layer in range(1, len(table))}
    if format == "rows":
        return dict(enumerate(torch.load(path, weights_only=True)))
    named = load_file(path) if format == "safetensors" else np.load(path)
    layers = [name for name in named if name.startswith("layer.")]
    return {int(name.removeprefix("layer.")): torch.as_tensor(named[name]) for name in layers}


def adding(vector):
    def hook(block, args, out):  # noqa: ARG001
        return (out[0] + vector, *out[1:]) if isinstance(out, tuple) else out + vector

    return hook


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama-untied"])
def test_a_written_vector_does_at_its_block_what_steering_by_one_gap_does(
    architecture, format, written, directions, make_model, blocks_of, plain_stream, tokens
):
    model = make_model(architecture)
    path, _, _ = written(format)
    shifts = applied(path, format, n_layers=3)
    assert sorted(shifts) == ([1, 2] if format == "llama.cpp" else [0, 1, 2])
    plain = plain_stream(model.hf, tokens)
    for layer, vector in shifts.items():
        handle = blocks_of(model.hf)[layer].register_forward_hook(adding(vector))
        theirs = plain_stream(model.hf, tokens)
        handle.remove()
        with intervene(model, steer(directions, strength=1.0, layers=[layer], positions="all")):
            ours = plain_stream(model.hf, tokens)
        torch.testing.assert_close(theirs, ours)
        # The stream after block l is row l + 1: moved by the vector, and not before.
        torch.testing.assert_close(theirs[: layer + 1], plain[: layer + 1])
        moved = (theirs - plain)[layer + 1]
        gap = directions.gap[layer].item()
        torch.testing.assert_close(moved, vector.expand_as(moved), atol=1e-5 * gap, rtol=1e-3)
        assert vector.norm().item() == pytest.approx(gap)


@pytest.mark.parametrize("format", FORMATS)
def test_directions_come_back_the_same_to_float32(format, written, tmp_path):
    path, unit, gap = written(format)
    back = load_directions_from(path, format=format)
    assert back.layers == ((1, 2) if format == "llama.cpp" else (0, 1, 2))
    torch.testing.assert_close(back.unit, unit, atol=1e-7, rtol=0)
    torch.testing.assert_close(back.gap, gap, atol=0, rtol=1e-7)
    assert back.unit.norm(dim=1).tolist() == pytest.approx([1] * len(gap), abs=1e-15)
    # What was read is written again bit for bit.
    again = tmp_path / f"again{SUFFIX[format]}"
    save_directions_as(back, again, format=format)
    for layer, vector in applied(path, format, 3).items():
        assert torch.equal(applied(again, format, 3)[layer], vector)


@pytest.mark.parametrize("format", FORMATS)
def test_at_unit_scale_vectors_have_length_1_and_the_gaps_come_from_like(
    format, written, directions
):
    path, unit, gap = written(format, scale="unit")
    alone = load_directions_from(path, format=format)
    torch.testing.assert_close(alone.gap, torch.ones_like(gap), atol=1e-6, rtol=0)
    like = load_directions_from(path, format=format, like=directions)
    assert torch.equal(like.gap, gap)
    torch.testing.assert_close(like.unit, unit, atol=1e-7, rtol=0)
    assert (gap - 1).abs().min() > 0.01  # else nothing would be told apart


@pytest.mark.parametrize("format", FORMATS)
def test_layers_that_are_not_written_are_not_read(format, written, directions):
    path, unit, _ = written(format, layers=[2])
    back = load_directions_from(path, format=format, like=directions)
    assert back.layers == (2,)
    torch.testing.assert_close(back.unit, unit, atol=1e-7, rtol=0)
    assert torch.equal(back.mean, directions.mean[2:])


@pytest.mark.parametrize("scale", ["gap", "unit"])
def test_the_scale_is_named_where_there_is_room(scale, written):
    path, _, _ = written("safetensors", scale=scale)
    with safe_open(path, "pt") as file:
        assert file.metadata()["scale"] == scale
        assert json.loads(file.metadata()["provenance"])["aligned"] == "aligned"
    assert str(np.load(written("npz", scale=scale)[0])["scale"]) == scale
    import gguf

    fields = gguf.GGUFReader(written("repeng", scale=scale, model_type="gpt2")[0]).fields
    told = {name: bytes(field.parts[-1]) for name, field in fields.items()}
    assert told["workbench.scale"].decode() == scale
    assert told["general.architecture"] == b"controlvector"
    assert told["controlvector.model_hint"] == b"gpt2"
    assert fields["controlvector.layer_count"].parts[-1].tolist() == [3]
    for format in ("safetensors", "npz", "repeng"):
        assert (
            load_directions_from(written(format, scale=scale)[0]).provenance["imported"]["scale"]
            == scale
        )
    assert (
        "scale" not in load_directions_from(written("steering-vectors")[0]).provenance["imported"]
    )


@pytest.mark.parametrize(
    ("name", "format", "rows"),
    [
        ("steering-vectors-0.12.2.pt", None, {0: 0, 2: 1}),
        ("repeng-0.4.0.gguf", None, {1: 1, 2: 0}),
        ("repeng-0.4.0.gguf", "repeng", {1: 1, 2: 0}),
        ("persona-vectors.pt", "persona-vectors", {0: 0, 1: 1}),
    ],
)
def test_what_the_tools_wrote_themselves_is_read_at_its_layers(name, format, rows):
    found = load_directions_from(FOREIGN / name, format=format)
    assert found.layers == tuple(rows)
    vectors = found.unit * found.gap[:, None]
    torch.testing.assert_close(vectors, ROWS[list(rows.values())], atol=1e-12, rtol=0)
    assert found.provenance["imported"] == {
        "file": name,
        "sha256": file_hash(FOREIGN / name),
        "format": format or ("llama.cpp" if name.endswith("gguf") else "steering-vectors"),
    }


def test_steering_vectors_itself_does_what_we_do(
    written, directions, make_model, plain_stream, tokens
):
    pytest.importorskip("sklearn")
    SteeringVector = pytest.importorskip("steering_vectors").SteeringVector
    model = make_model()
    path, _, _ = written("steering-vectors", layers=[1])
    vector = SteeringVector(**torch.load(path, weights_only=True))
    with torch.no_grad(), vector.apply(model.hf, multiplier=2.0):
        theirs = plain_stream(model.hf, tokens)
    with (
        torch.no_grad(),
        intervene(model, steer(directions, strength=2.0, layers=[1], positions="all")),
    ):
        torch.testing.assert_close(plain_stream(model.hf, tokens), theirs)


def test_repeng_itself_does_what_we_do(
    written, directions, make_hf, make_model, tokens, monkeypatch
):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(np, "float_", np.float64, raising=False)  # gone from numpy 2
    repeng = pytest.importorskip("repeng")
    path, _, _ = written("repeng")
    hf = make_hf()
    control = repeng.ControlVector.import_gguf(path)
    theirs = repeng.ControlModel(hf, [-2])
    theirs.set_control(control, 2.0)
    with torch.no_grad():
        moved = theirs(input_ids=tokens[:1]).logits  # it takes one row of positions
    model = make_model()
    with (
        torch.no_grad(),
        intervene(model, steer(directions, strength=2.0, layers=[1], positions="all")),
    ):
        torch.testing.assert_close(model.hf(input_ids=tokens[:1]).logits, moved)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_point_precision_is_read(dtype, tmp_path):
    torch.save({3: ROWS[0].to(dtype)}, tmp_path / "v.pt")
    save_file({"layer.3": ROWS[0].to(dtype)}, tmp_path / "v.safetensors")
    for name in ("v.pt", "v.safetensors"):
        found = load_directions_from(tmp_path / name)
        assert found.layers == (3,)
        torch.testing.assert_close(found.unit[0] * found.gap, ROWS[0])  # exact in all of them


def test_one_safetensors_table_has_a_row_per_layer(tmp_path):
    table = torch.stack([ROWS[0], torch.zeros(8), ROWS[1]])
    save_file({"vectors": table}, tmp_path / "v.safetensors")
    found = load_directions_from(tmp_path / "v.safetensors")
    assert found.layers == (0, 2)
    torch.testing.assert_close(found.gap, ROWS.norm(dim=1))


def test_like_gives_gaps_mean_and_model_and_keeps_the_prompts_apart(written, directions, splits):
    path, _, _ = written("safetensors")
    back = load_directions_from(path, like=directions, layers=[1, 2])
    assert back.layers == (1, 2)
    assert torch.equal(back.gap, directions.gap[1:])
    assert torch.equal(back.mean, directions.mean[1:])
    assert back.split_half.isnan().all() and back.interval.isnan().all()
    assert back.provenance.items() > directions.provenance.items()
    assert back.provenance["imported"]["file"] == "written.safetensors"
    with pytest.raises(WorkbenchError, match="directions were fitted on"):
        back.check_probes(splits[0], "measured")
    with pytest.raises(ProvenanceError, match="These directions start from weights"):
        back.check_model("0" * 64)


def test_imported_directions_are_saved_and_loaded_like_any(written, tmp_path):
    back = load_directions_from(written("npz")[0])
    back.save(tmp_path / "own.safetensors")
    again = ReversionDirections.load(tmp_path / "own.safetensors")
    assert torch.equal(again.unit, back.unit)
    assert again.provenance == back.provenance
    assert again.mean.isnan().all()


def test_directions_imported_alone_block_measure_and_steer_but_ablate_only_about_a_centre(
    written, directions, aligned_model, splits, tune
):
    back = load_directions_from(written("repeng")[0])
    tuning = tune(
        aligned_model,
        probes=splits[2],
        directions=back,
        intervention=Block(back, strength=3.0, probes=splits[1]),
    )
    drift = [record.drift for record in tuning if record.drift][-1]
    assert np.isfinite(drift.alignment).all()
    acts = torch.randn(2, 3, 9, 32)
    theirs, ours = (measure_drift(*acts, one) for one in (back, directions))
    np.testing.assert_allclose(theirs.along, ours.along, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"ablate: .*needs the aligned model's mean.*--like"):
        ablate(back, positions="all")
    with pytest.raises(ConfigError, match="The vocabulary readout needs the aligned model's mean"):
        read_vocabulary(aligned_model, back)
    centre = (directions.mean * directions.unit).sum(dim=1)
    for edit in (
        steer(back, strength=1.0, positions="all"),
        ablate(back, positions="all", centre=centre),
    ):
        assert edit.layers == (0, 1, 2)
    torch.testing.assert_close(ablate(directions, positions="all").centre, centre)


def test_directions_of_another_width_are_refused_where_they_are_used(aligned_model, splits, tune):
    narrow = load_directions_from(FOREIGN / "repeng-0.4.0.gguf")
    uses = [
        lambda: tune(aligned_model, probes=splits[2], directions=narrow),
        lambda: tune(aligned_model, intervention=Block(narrow, strength=1.0, probes=splits[1])),
        lambda: intervene(aligned_model, steer(narrow, strength=1.0, positions="all")).__enter__(),
    ]
    for use in uses:
        with pytest.raises(ConfigError, match="directions are 8 wide and the model's stream 32"):
            use()


def gguf_with(path, arch="controlvector", **tensors):
    import gguf

    writer = gguf.GGUFWriter(path, arch)
    for name, value in tensors.items():
        writer.add_tensor(name.replace("_", "."), value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def cut(path, source):
    path.write_bytes(source.read_bytes()[:-20])


ONE = np.arange(1, 9, dtype=np.float32)
SICK = torch.tensor([1.0, torch.nan])
BAD = {
    "missing": ("v.npz", lambda _: None, ProvenanceError, r"v\.npz: no such file\."),
    "empty": ("v.pt", lambda path: path.touch(), ProvenanceError, r"v\.pt: empty\."),
    "nameless": ("v.dat", lambda path: path.write_text("x"), ConfigError,
        r"v\.dat: its name does not say the format; choose one of steering-vectors, repeng, "),
    "class": ("v.pt",
        lambda path: shutil.copy(FOREIGN / "steering-vectors-0.12.2-pickled.pt", path),
        ProvenanceError, r"pickled objects are not opened.* torch\.save\(vars\(vector\), "),
    "no pt": ("v.pt", lambda path: path.write_text("hello"), ProvenanceError,
        "not a file of tensors, or damaged"),
    "cut pt": ("v.pt", lambda path: cut(path, FOREIGN / "persona-vectors.pt"), ProvenanceError,
        r"v\.pt: not a file of tensors, or damaged \("),
    "table": ("v.pt", lambda path: torch.save(torch.ones(4, 8), path), ConfigError,
        r"one tensor of shape \[4, 8\]; choose format persona-vectors \(row 0 is the embedding\)"),
    "list": ("v.pt", lambda path: torch.save([1], path), ProvenanceError,
        "a list; steering-vectors is vars"),
    "names": ("v.pt", lambda path: torch.save({"layer_activations": {"a": SICK}}, path),
        ProvenanceError, "from layer to tensor"),
    "mlp": ("v.pt", lambda path: torch.save(
        {"layer_activations": {1: torch.ones(8)}, "layer_type": "mlp"}, path),
        ProvenanceError, "of layer_type 'mlp'"),
    "negative": ("v.pt", lambda path: torch.save({-1: torch.ones(8)}, path), LayerError,
        "layer -1 counts from the end; count from 0"),
    "zero": ("v.pt", lambda path: torch.save({2: torch.zeros(8)}, path), DegenerateDirectionError,
        "layer 2 is zero or not finite"),
    "nan": ("v.pt", lambda path: torch.save({2: SICK}, path), DegenerateDirectionError,
        "layer 2 is zero or not finite"),
    "whole": ("v.pt", lambda path: torch.save({2: torch.ones(8).int()}, path), ProvenanceError,
        r"layer 2 is int32 of shape \[8\]; it must be one vector"),
    "matrix": ("v.pt", lambda path: torch.save({2: torch.ones(8, 8)}, path), ProvenanceError,
        r"layer 2 is float32 of shape \[8, 8\]"),
    "widths": ("v.pt", lambda path: torch.save({1: torch.ones(8), 2: torch.ones(9)}, path),
        ProvenanceError, r"vectors of widths \[8, 9\]; one model has one width"),
    "nothing": ("v.pt", lambda path: torch.save({}, path), ProvenanceError, "no vectors in it"),
    "no gguf": ("v.gguf", lambda path: path.write_text("hello"), ProvenanceError,
        r"not a file of control vectors, or damaged \(ValueError: GGUF magic invalid\)"),
    "cut gguf": ("v.gguf", lambda path: cut(path, FOREIGN / "repeng-0.4.0.gguf"), ProvenanceError,
        r"v\.gguf: not a file of control vectors, or damaged \("),
    "llama": ("v.gguf", lambda path: gguf_with(path, "llama", direction_1=ONE), ProvenanceError,
        "a gguf of 'llama', not of a controlvector"),
    "gguf names": ("v.gguf", lambda path: gguf_with(path, blk_1=ONE), ProvenanceError,
        r"tensor 'blk\.1'; tensors must be named direction\.0"),
    "gguf double": ("v.gguf", lambda path: gguf_with(path, direction_1=ONE.astype(np.float64)),
        ProvenanceError, r"direction\.1 is F64; write it again as F32"),
    "cut safetensors": ("v.safetensors", lambda path: path.write_bytes(b"\x10" + bytes(9)),
        ProvenanceError, "not a file of safetensors, or damaged"),
    "safetensors names": ("v.safetensors",
        lambda path: save_file({"a": torch.ones(8), "b": torch.ones(8)}, path),
        ProvenanceError, r"tensor 'a'; tensors must be named layer\.0"),
    "npz objects": ("v.npz",
        lambda path: np.savez(path, **{"layer.1": np.array([{}], dtype=object)}),
        ProvenanceError, "not a file of arrays, or damaged"),
    "npy": ("v.npz", lambda path: np.save(path.open("wb"), ONE), ProvenanceError, "one array; "),
    "cut npz": ("v.npz", lambda path: path.write_bytes(b"PK\x03\x04rest"), ProvenanceError,
        "not a file of arrays, or damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_in_one_line_that_names_it(case, tmp_path):
    name, make, kind, message = BAD[case]
    make(tmp_path / name)
    with pytest.raises(kind, match=message) as caught:
        load_directions_from(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


class Touch:
    """What would leave a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_no_code_in_a_file_is_run(tmp_path):
    mark = tmp_path / "mark"
    torch.save({"layer_activations": {1: Touch(mark)}}, tmp_path / "v.pt")
    np.savez(tmp_path / "v.npz", **{"layer.1": np.array([Touch(mark)], dtype=object)})
    for name in ("v.pt", "v.npz"):
        with pytest.raises(ProvenanceError, match=r"v\.(pt|npz): not "):
            load_directions_from(tmp_path / name)
    assert not mark.exists()
    np.load(tmp_path / "v.npz", allow_pickle=True)["layer.1"]
    assert mark.exists()  # it would have been run


@pytest.mark.parametrize("at", range(0, 320, 7))
def test_a_control_vector_cut_anywhere_is_refused(at, tmp_path):
    (tmp_path / "v.gguf").write_bytes((FOREIGN / "repeng-0.4.0.gguf").read_bytes()[:at])
    with pytest.raises(ProvenanceError, match=r"v\.gguf: "):
        load_directions_from(tmp_path / "v.gguf")


def test_the_half_precision_of_a_control_vector_is_read(tmp_path):
    gguf_with(tmp_path / "v.gguf", direction_5=ONE.astype(np.float16))
    found = load_directions_from(tmp_path / "v.gguf")
    assert found.layers == (5,)
    torch.testing.assert_close(found.unit[0] * found.gap, torch.from_numpy(ONE).double())


def test_what_does_not_fit_is_refused(written, directions, tmp_path):
    own = tmp_path / "own.safetensors"
    directions.save(own)
    path, _, _ = written("safetensors", layers=[1])
    cases = [
        (ProvenanceError, "the workbench's own", lambda: load_directions_from(own)),
        (ConfigError, "Format 'bin' is unknown", lambda: load_directions_from(path, format="bin")),
        (LayerError, r"written.safetensors: no layers \[2\]; there are \[1\]",
         lambda: load_directions_from(path, layers=[2])),
        (LayerError, "no layers asked for", lambda: load_directions_from(path, layers=[])),
        (LayerError, r"The directions to be like: no layers \[1\]; there are \[0\]",
         lambda: load_directions_from(
             path, like=load_directions_from(written("rows", layers=[0])[0], format="rows"))),
        (ProvenanceError, "width 8, the directions to be like have 32",
         lambda: load_directions_from(FOREIGN / "repeng-0.4.0.gguf", like=directions)),
        (LayerError, r"The directions: no layers \[7\]", lambda: written("npz", layers=[7])),
        (LayerError, "llama.cpp refuses a control vector that has layer 0; choose other layers",
         lambda: written("llama.cpp", layers=[0, 1])),
        (ConfigError, r"v\.pt: its name does not say the format",
         lambda: save_directions_as(directions, tmp_path / "v.pt")),
    ]  # fmt: skip
    for kind, message, call in cases:
        with pytest.raises(kind, match=message):
            call()
    assert not (tmp_path / "v.pt").exists()


def test_without_the_gguf_package_the_extra_is_named(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    for call in (
        lambda: written("repeng"),
        lambda: load_directions_from(FOREIGN / "repeng-0.4.0.gguf"),
    ):
        with pytest.raises(ConfigError, match=r"pip install 'reversion-workbench\[gguf\]'"):
            call()


def test_a_file_is_never_half_written(written, monkeypatch):
    path, _, _ = written("npz")
    before = path.read_bytes()

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        written("npz", scale="unit")
    assert path.read_bytes() == before
    assert [*path.parent.iterdir()] == [path]


def test_convert_writes_for_another_tool_and_reads_it_back(directions, tmp_path, capsys):
    own, there, back = (tmp_path / name for name in ("v.safetensors", "v.gguf", "b.safetensors"))
    directions.save(own)
    assert main(["convert", f"{own}", f"{there}", "--layers", "1,2", "--model-type", "gpt2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{there}: layers 1, 2; 1 is one phase gap",
        "other tools add each layer's vector in full: steer at one layer",
    ]
    assert main(["convert", f"{there}", f"{back}", "--like", f"{own}"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{back}: directions from v.gguf (llama.cpp)"
    assert printed[2:] == [f"{n:5d} {directions.gap[n]:7.3f}" for n in (1, 2)]
    stored = ReversionDirections.load(back)
    assert torch.equal(stored.gap, directions.gap[1:])
    torch.testing.assert_close(stored.unit, directions.unit[1:], atol=1e-7, rtol=0)
    assert main(["convert", f"{there}", f"{tmp_path / 'alone'}"]) == 0
    assert "the aligned model is not known: see --like" in capsys.readouterr().out


def test_a_fine_tuning_is_blocked_along_imported_directions(
    written, inputs_folder, tmp_path, capsys
):
    source, own = written("persona-vectors")[0], tmp_path / "own.safetensors"
    assert main(["convert", f"{source}", f"{own}", "--format", "persona-vectors"]) == 0
    argv = ["finetune", inputs_folder, "--out", tmp_path / "run", "--steps", 2, "--quiet"]
    argv += ["--direction", own, "--intervention", "block:3"]
    assert main([str(part) for part in argv]) == 0, capsys.readouterr().err
    config = json.loads((tmp_path / "run/run.json").read_text())
    assert '"file": "written.pt"' in json.dumps(config)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["own", "there.npz"], "there.npz: exists; choose another file, or remove it."),
        (["own", "no/there.npz"], "no: no such folder; make it first."),
        (["own", "new.pt"], "new.pt: its name does not say the format; choose one of "),
        (["own", "new.gguf"], "llama.cpp refuses a control vector that has layer 0"),
        (["own", "new.npz", "--like", "own"], "own: already the workbench's own; --like is for"),
        (["there.npz", "new", "--scale", "unit"], "there.npz: another tool's file; --scale and"),
        (["gone.npz", "new"], "gone.npz: no such file."),
    ],
)
def test_convert_refuses_in_one_line_and_writes_nothing(
    argv, message, directions, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    directions.save("own")
    save_directions_as(directions, "there.npz")
    assert main(["convert", *argv]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"workbench: {message}")
    assert err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"own", "there.npz"}


def test_help_names_every_format(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    told = "".join(capsys.readouterr().out.split())  # names are broken at hyphens
    assert all(format in told for format in FORMATS)
