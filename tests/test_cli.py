"""The `smalti` command as a user meets it: in this process, on real files, with a tiny tokenizer."""

from __future__ import annotations

import importlib
import inspect
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import docstring_parser
import pytest
import torch
from PIL import Image

from smalti import weights
from smalti.cli import COMMANDS
from tests.conftest import ASSETS
from tests.test_contracts import build


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A folder with the weights of a tiny tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    weights.write(build("mosaic"), folder / "model.safetensors")
    return folder


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_help_lists_every_command(run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_a_word_on_each_option(run, name) -> None:
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"smalti {name}" in out
    command = importlib.import_module(f"smalti.cli.{name}").command
    explained = {parameter.arg_name for parameter in docstring_parser.parse(inspect.getdoc(command)).params}
    assert explained == set(inspect.signature(command).parameters)


def test_an_unknown_command_names_the_nearest(run) -> None:
    code, _, err = run("encod")
    assert code == 2
    assert "'encode'" in err


def test_an_unknown_option_is_a_usage_error(run) -> None:
    assert run("info", "--nonsense")[0] == 2


def test_a_picture_there_and_back(run, media, tiny) -> None:
    code, out, err = run("encode", "photo.png", "--tokenizer", tiny)
    assert (code, err) == (0, "")
    assert "bits per pixel" in out
    code, _, err = run("decode", "photo.smt", "-o", "back.png", "--tokenizer", tiny)
    assert (code, err) == (0, "")
    with Image.open("back.png") as back:
        assert back.size == (96, 54)


def test_a_clip_there_and_back_and_a_part_of_it(run, media, tiny) -> None:
    assert run("encode", "clip.mp4", "-o", "clip.smt", "--tokenizer", tiny)[0] == 0
    assert run("decode", "clip.smt", "-o", "whole.mp4", "--tokenizer", tiny)[0] == 0
    assert frames_of(Path("whole.mp4")) == 26
    part = ("--start", "0.4", "--end", "0.8", "--tokenizer", tiny)
    assert run("decode", "clip.smt", "-o", "part.mp4", *part)[0] == 0
    assert frames_of(Path("part.mp4")) == 10


def test_streaming_to_a_file_gives_what_python_gives(run, media, tiny) -> None:
    import smalti

    assert run("encode", "clip.mp4", "--tokenizer", tiny)[0] == 0
    whole = smalti.encode("clip.mp4", tiny)
    stored = smalti.load_tokens("clip.smt", tokenizer=tiny)
    assert torch.equal(stored.ids, whole.ids)
    torch.testing.assert_close(smalti.decode(stored, tiny), smalti.decode(whole, tiny))


def test_many_inputs_go_on_after_a_bad_one(run, media, tiny) -> None:
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    code, out, err = run(
        "encode", "broken.png", "photo.png", "missing.png", "-o", "out/", "--tokenizer", tiny
    )
    assert code == 3
    assert "broken.png" in err
    assert "missing.png" in err
    assert "2 of 3" in err
    assert "photo.png" in out
    assert sorted(p.name for p in Path("out").iterdir()) == ["photo.smt"]


def test_folders_and_globs(run, media, tiny) -> None:
    Path("in/deep").mkdir(parents=True)
    shutil.copy("photo.png", "in/a.png")
    shutil.copy("photo.png", "in/deep/b.png")
    assert run("encode", "in", "-o", "out", "--tokenizer", tiny)[0] == 0
    assert sorted(str(p) for p in Path("out").rglob("*.smt")) == ["out/a.smt", "out/deep/b.smt"]
    assert run("encode", "in/**/*.png", "-o", "flat", "--tokenizer", tiny)[0] == 0
    assert sorted(p.name for p in Path("flat").iterdir()) == ["a.smt", "b.smt"]


def test_same_stem_keeps_both(run, media, tiny) -> None:
    with Image.open("photo.png") as picture:
        picture.save("photo.webp")
    assert run("encode", "photo.png", "photo.webp", "--tokenizer", tiny)[0] == 0
    assert Path("photo.png.smt").exists()
    assert Path("photo.webp.smt").exists()


def test_two_outputs_of_one_name_are_refused(run, media, tiny) -> None:
    for folder in ("one", "two"):
        Path(folder).mkdir()
        shutil.copy("photo.png", folder)
    code, _, err = run("encode", "one/photo.png", "two/photo.png", "-o", "out", "--tokenizer", tiny)
    assert code == 2
    assert "photo" in err


def test_standard_input(media, tiny) -> None:
    command = [sys.executable, "-m", "smalti", "encode", "-", "-o", "x.smt", "--tokenizer", str(tiny)]
    done = subprocess.run(command, input=Path("photo.png").read_bytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert Path("x.smt").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("encode",), 2, "no input"),
        (("encode", "photo.png", "--quality", "9"), 2, "quality 9"),
        (("encode", "photo.png", "clip.mp4", "-o", "one.smt"), 2, "folder"),
        (("encode", "missing.png"), 3, "missing.png"),
        (("encode", "*.nothing"), 3, "*.nothing"),
        (("decode", "photo.png"), 3, "photo.png"),
        (("systems", "mosaik"), 2, "mosaic"),
        (("trim", "photo.png", "--quality", "1", "-o", "x.smt"), 3, "photo.png"),
    ],
)
def test_a_mistake_is_one_line_with_its_exit_code(run, media, tiny, arguments, code, words) -> None:
    if arguments[0] in ("encode", "decode"):
        arguments = (*arguments, "--tokenizer", tiny)
    found, _, err = run(*arguments)
    assert found == code
    assert words in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


def test_debug_shows_the_traceback(media, tiny) -> None:
    from smalti.cli import main
    from smalti.errors import MediaError

    with pytest.raises(MediaError):
        main(["encode", "missing.png", "--debug", "--tokenizer", str(tiny)])


def test_a_changed_byte_is_exit_code_4(run, media, tiny) -> None:
    assert run("encode", "photo.png", "--tokenizer", tiny)[0] == 0
    data = bytearray(Path("photo.smt").read_bytes())
    data[-1] ^= 1
    Path("photo.smt").write_bytes(data)
    code, _, err = run("decode", "photo.smt", "--tokenizer", tiny)
    assert code == 4
    assert "photo.smt" in err
    assert not Path("photo.png.tmp").exists()


def test_another_tokenizer_is_refused(run, media, tiny, tmp_path) -> None:
    other = build("mosaic")
    with torch.no_grad():
        next(other.parameters()).add_(0.5)
    weights.write(other, tmp_path / "other.safetensors")
    assert run("encode", "photo.png", "--tokenizer", tiny)[0] == 0
    code, _, err = run("decode", "photo.smt", "--tokenizer", tmp_path / "other.safetensors")
    assert code == 2
    assert "weights" in err


def test_info_as_table_and_as_json(run, media, tiny) -> None:
    assert run("encode", "clip.mp4", "--tokenizer", tiny)[0] == 0
    code, out, _ = run("info", "clip.smt", "--json", "--verify")
    told = json.loads(out)
    assert code == 0
    assert told["source"]["frames"] == 26
    assert told["bytes"] == Path("clip.smt").stat().st_size
    assert "mosaic" in run("info", "clip.smt")[1]
    assert json.loads(run("info", "photo.png", "--json")[1])["width"] == 96


def test_trim_keeps_a_prefix_that_decodes(run, media, tiny) -> None:
    import smalti

    assert run("encode", "photo.png", "--tokenizer", tiny)[0] == 0
    assert run("trim", "photo.smt", "--quality", "1", "-o", "small.smt")[0] == 0
    assert Path("small.smt").stat().st_size < Path("photo.smt").stat().st_size
    whole, small = (smalti.load_tokens(name, tokenizer=tiny) for name in ("photo.smt", "small.smt"))
    assert torch.equal(small.ids, whole.ids[..., : small.ids.shape[-1]])
    assert run("decode", "small.smt", "-o", "small.png", "--tokenizer", tiny)[0] == 0


def test_compare_draws_and_tells(run, media, tiny) -> None:
    code, out, err = run("compare", "photo.png", "-o", "side.png", "--tokenizer", tiny, "--json")
    assert (code, err) == (0, "")
    assert {"Smalti", "JPEG", "WebP", "AVIF"} <= {entry["name"] for entry in json.loads(out)}
    with Image.open("side.png") as side:
        assert side.width > 3 * 96
        assert side.height > 2 * 54
    assert "PSNR" in run("compare", "photo.png", "--tokenizer", tiny)[1]
    assert Path("photo-compared.png").exists()


def test_systems_as_table_card_and_json(run) -> None:
    assert "mosaic" in run("systems")[1]
    assert "preset" in run("systems", "mosaic")[1]
    cards = json.loads(run("systems", "--json", "--room", "tokenizers")[1])
    assert "mosaic" in {card["name"] for card in cards}


def test_doctor_says_what_there_is(run) -> None:
    code, out, _ = run("doctor", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["torch"] == torch.__version__
    assert "libx264" in told["video codecs"]


def test_a_key_of_a_recipe_needs_a_value(run, tmp_path) -> None:
    code, _, err = run("train", tmp_path / "recipe.yaml", "steps")
    assert code == 2
    assert "KEY=VALUE" in err


def test_audio_is_kept_on_request(run, media, tiny) -> None:
    with av.open("clip.mp4") as source, av.open("loud.mp4", "w") as out:
        picture = out.add_stream_from_template(source.streams.video[0])
        sound = out.add_stream("aac", rate=16_000)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = picture
                out.mux(packet)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.sample_rate = 16_000
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        out.mux(sound.encode(frame))
        out.mux(sound.encode())
    assert run("encode", "loud.mp4", "-o", "loud.smt", "--audio", "--tokenizer", tiny)[0] == 0
    assert json.loads(run("info", "loud.smt", "--json")[1])["audio_bytes"] > 0
    assert run("decode", "loud.smt", "-o", "back.mp4", "--tokenizer", tiny)[0] == 0
    with av.open("back.mp4") as back:
        assert back.streams.audio


def test_an_interrupt_ends_with_130_and_leaves_nothing(media, tiny) -> None:
    with av.open("long.mp4", "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for _ in range(400):
            out.mux(stream.encode(av.VideoFrame(640, 360, "yuv420p")))
        out.mux(stream.encode())
    command = [sys.executable, "-m", "smalti", "encode", "long.mp4", "-o", "out/", "--tokenizer", str(tiny)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not Path("out").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "interrupted"
    assert not list(Path("out").iterdir())


def test_the_second_interrupt_is_immediate() -> None:
    stubborn = (
        "import time\nfrom smalti.cli import _interrupt_once\n_interrupt_once()\n"
        "try:\n print('ready', flush=True)\n time.sleep(60)\n"
        "except KeyboardInterrupt: print('cleaning', flush=True)\ntime.sleep(60)"
    )
    command = [sys.executable, "-c", stubborn]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline().strip() == "cleaning"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == -signal.SIGINT


@pytest.mark.slow
def test_demo_writes_a_page(run, tmp_path, tiny) -> None:
    code, out, err = run("demo", "-o", tmp_path / "demo", "--tokenizer", tiny)
    assert (code, err) == (0, "")
    page = (tmp_path / "demo" / "index.html").read_text()
    for name in ("towers.png", "city.png", "x264", "AVIF", "smalti encode"):
        assert name in page
    for name in ("towers.smt", "towers-back.png", "city.smt", "city-back.mp4", "towers.png", "city.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 0
    assert frames_of(tmp_path / "demo" / "city-back.mp4") == frames_of(ASSETS / "city.mp4")
    assert "index.html" in out
