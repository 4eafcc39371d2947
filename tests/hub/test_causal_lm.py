"""The language models in transformers, offline: loaded by AutoModelForCausalLM, generating with their own cache."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from polychron import models
from polychron.data.vocabulary import Vocabulary
from polychron.errors import InputError
from polychron.export.huggingface import export_hf
from polychron.hub.causal_lm import PolychronConfig, PolychronForCausalLM
from polychron.hub.state_cache import StateCache
from polychron.hub.tokenizer import byte_tokenizer
from polychron.models.growth import add_tables, extend_vocabulary
from polychron.runtime.sampling import Sampler, generate
from polychron.runtime.stream import Stream

from ..runtime.conftest import BYTE_VALUES, COUNTED, MODELS, random_model, random_text, save_model

RECURRENT = models.RecurrentConfig(
    vocabulary_size=28, n_neurons=12, n_tables=9, n_comparisons=5, readout_n_tables=7, readout_n_comparisons=5
)
NETWORKS = {**MODELS, "recurrent": RECURRENT, "contexts": COUNTED["contexts"]}
VOCABULARY = Vocabulary(BYTE_VALUES[:27])
CACHE_NAME = "cache" if Version(transformers.__version__) >= Version("5.24") else "past_key_values"


def wrapped(name: str) -> PolychronForCausalLM:
    config = PolychronConfig(NETWORKS[name].to_dict(), byte_values=list(VOCABULARY.byte_values))
    model = PolychronForCausalLM(config)
    model.model.load_state_dict(random_model(NETWORKS[name]).state_dict())
    return model.eval()


def greedy(model: models.LanguageModel, prompt: bytes, n_bytes: int) -> bytes:
    """What `polychron generate --temperature 0` writes."""
    sampler = Sampler(temperature=0, excluded=[VOCABULARY.unseen_id])
    return b"".join(generate(Stream(model), VOCABULARY, prompt, n_bytes, sampler))


def cache_of(output: Any) -> StateCache | None:
    """Under the name that the version of transformers installed here gives it."""
    return output.cache if hasattr(output, "cache") else output.past_key_values


def watch(model: PolychronForCausalLM, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each call reads from now on, in a list that grows."""
    read, extend = [], model.model.extend

    def watched(tokens: torch.Tensor, state: Any, *, last: bool = False) -> tuple[torch.Tensor, Any]:
        read.append(tokens.shape[1])
        return extend(tokens, state, last=last)

    monkeypatch.setattr(model.model, "extend", watched)
    return read


@pytest.fixture(autouse=True)
def _nothing_is_warned_of(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Most of what transformers deprecates it logs, once a process: pytest's filter of warnings does not see that."""
    logging.Logger.warning_once.cache_clear()
    yield
    warned = [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.WARNING]
    assert warned == []


def ids(text: bytes) -> torch.Tensor:
    return torch.from_numpy(VOCABULARY.encode(text).astype("int64"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """exported(name) -> the folder that export_hf wrote of a checkpoint."""
    folder = tmp_path_factory.mktemp("exported")

    def make(name: str) -> Path:
        target = folder / name.replace(" ", "-")
        if not target.exists():
            export_hf(save_model(random_model(NETWORKS[name]), folder / f"run-{target.name}"), target)
        return target

    return make


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_checkpoint_writes_what_polychron_writes(name: str, exported: Callable[[str], Path]):
    model = AutoModelForCausalLM.from_pretrained(exported(name))
    tokenizer = AutoTokenizer.from_pretrained(exported(name))
    assert type(model) is PolychronForCausalLM
    trained = random_model(NETWORKS[name])
    assert all(torch.equal(tensor, trained.state_dict()[key]) for key, tensor in model.model.state_dict().items())
    prompt = "the prompt is read"
    written = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=80, do_sample=False)
    assert tokenizer.decode(written[0]) == prompt + greedy(trained, prompt.encode(), 80).decode()
    from_nothing = model.generate(max_new_tokens=30, do_sample=False)
    assert tokenizer.decode(from_nothing[0, 1:]) == greedy(trained, b"", 30).decode()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cache_gives_the_logits_of_the_whole_text_bit_for_bit(name: str):
    model = wrapped(name)
    length = getattr(NETWORKS[name], "context", 40)
    tokens = torch.stack([ids(random_text(length, seed)) for seed in range(3)])
    with torch.no_grad():
        whole = model(tokens, use_cache=False)
        assert cache_of(whole) is None
        cache, at = None, 0
        for piece in (3, 1, 1, length - 5):
            step = model(tokens[:, at : at + piece], cache=cache, use_cache=True)
            assert torch.equal(step.logits, whole.logits[:, at : at + piece])
            cache, at = cache_of(step), at + piece
        assert cache.get_seq_length() == length
        assert torch.equal(model(tokens, logits_to_keep=1).logits, whole.logits[:, -1:])


@pytest.mark.parametrize("name", ["delay", "transformer", "recurrent", "contexts"])
def test_generation_reads_each_token_once_and_the_cache_does_not_grow(name: str, monkeypatch):
    model = wrapped(name)
    read, sizes = watch(model, monkeypatch), []
    step = model(ids(b"a text to begin with")[None], use_cache=True)
    for _ in range(60):
        sizes.append(cache_of(step).n_bytes())
        step = model(step.logits[:, -1:].argmax(dim=-1), cache=cache_of(step))
    assert read == [20] + [1] * 60
    assert len(set(sizes)) == 1
    read.clear()
    model.generate(ids(b"a text to begin with")[None], max_new_tokens=50, do_sample=False)
    assert read == [20] + [1] * 49


@pytest.mark.parametrize("name", ["two delay layers", "transformer", "recurrent", "contexts"])
def test_texts_of_different_lengths_in_a_batch_do_not_touch_each_other(name: str):
    model, tokenizer = wrapped(name), byte_tokenizer(VOCABULARY)
    prompts = ["a", "some more to read", "in between", "two equally", "long texts "]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    assert not batch["attention_mask"].all()
    written = model.generate(**batch, max_new_tokens=40, do_sample=False)
    for row, prompt in zip(written, prompts, strict=True):
        assert tokenizer.decode(row[-40:]) == greedy(model.model, prompt.encode(), 40).decode()
    # Without a cache, too: with gradients, as in training.
    logits = model(**batch).logits
    for row, prompt in zip(logits, prompts, strict=True):
        assert torch.equal(row[-len(prompt) :], model.model(ids(prompt.encode())[None])[0])


@pytest.mark.parametrize("name", ["delay", "transformer", "recurrent", "contexts"])
def test_beams_and_samples_use_the_cache(name: str, monkeypatch):
    model = wrapped(name)
    read = watch(model, monkeypatch)
    prompt = ids(b"begin")[None]
    for options in ({"num_beams": 4}, {"do_sample": True, "num_return_sequences": 3}):
        results = []
        for use_cache in (True, False):
            torch.manual_seed(0)
            settings = GenerationConfig(**{"do_sample": False, **options}, use_cache=use_cache, max_new_tokens=6,
                                        suppress_tokens=[27], pad_token_id=27)  # fmt: skip
            results.append(model.generate(prompt, generation_config=settings))
        assert torch.equal(*results)
        assert read == [5] + [1] * 5  # and without a cache none, for `extend` is not asked then
        read.clear()


@pytest.mark.parametrize("name", ["transformer", "contexts"])
def test_a_cache_is_repeated_and_selected_row_by_row(name: str):
    model = wrapped(name)
    cache = cache_of(model(torch.stack([ids(b"aaa"), ids(b"bcd")]), use_cache=True))
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([3, 0]))
    token = ids(b"xx")[:, None]
    expected = torch.cat([model.model(ids(text)[None])[:, -1] for text in (b"bcdx", b"aaax")])
    assert torch.equal(model(token, cache=cache).logits[:, 0], expected)


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "top_k": 1}, {"num_beams": 3}], ids=str)
@pytest.mark.parametrize("name", ["delay", "contexts"])
def test_generation_goes_on_from_a_cache(name: str, options: dict[str, Any], monkeypatch):
    model = wrapped(name)
    prompt = ids(b"one text")[None]
    first = model.generate(prompt, max_new_tokens=10, do_sample=False, return_dict_in_generate=True)
    cache = cache_of(first)
    assert isinstance(cache, StateCache)
    assert cache.get_seq_length() == first.sequences.shape[1] - 1
    settings = {"max_new_tokens": 20, "do_sample": False, **options}
    from_the_start = model.generate(first.sequences, use_cache=False, **settings)
    if "num_beams" in options:
        cache.batch_repeat_interleave(3)  # transformers repeats tokens, not a cache that it was given
    read = watch(model, monkeypatch)
    rest = model.generate(first.sequences, **{CACHE_NAME: cache}, **settings)
    assert torch.equal(rest, from_the_start)
    assert read == [1] * 20


def test_the_cache_has_its_old_name_too():
    model = wrapped("delay")
    tokens = ids(b"one text")[None]
    whole = model(tokens, use_cache=False).logits
    by_name = [cache_of(model(tokens[:, :3], use_cache=True)) for _ in range(2)]
    for name, cache in zip(("cache", "past_key_values"), by_name, strict=True):
        assert torch.equal(model(tokens[:, 3:], **{name: cache}).logits, whole[:, 3:])
    with pytest.raises(ValueError, match="two names of one argument; got both"):
        model(tokens, cache=by_name[0], past_key_values=by_name[1])


@pytest.mark.parametrize("name", ["delay", "transformer", "recurrent"])
def test_the_loss_is_the_mean_of_nats_and_has_the_models_gradient(name: str):
    model = wrapped(name)
    tokens = torch.stack([ids(random_text(12, seed)) for seed in range(2)])
    output = model(tokens, labels=tokens)
    expected = model.model.loss(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()) / 22
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    gradient = model.model.readout.synaptic_vectors.grad.clone()
    assert gradient.abs().sum() > 0
    model.zero_grad()
    expected.backward()
    torch.testing.assert_close(gradient, model.model.readout.synaptic_vectors.grad)


@pytest.mark.parametrize("name", ["two delay layers", "contexts"])
def test_what_is_saved_is_loaded_and_survives_a_second_time(name: str, tmp_path: Path):
    model = wrapped(name)
    model.save_pretrained(tmp_path / "one")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    loaded.save_pretrained(tmp_path / "two")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "two")
    assert AutoConfig.from_pretrained(tmp_path / "two").network == NETWORKS[name].to_dict()
    assert again.generation_config.suppress_tokens == [27]
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key])


def test_a_model_that_grew_is_saved_as_it_is_now(tmp_path: Path):
    model = wrapped("delay")
    add_tables(model.model, 2)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.model.config == model.model.config
    tokens = ids(b"one text")[None]
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    extend_vocabulary(model.model, VOCABULARY, Vocabulary(BYTE_VALUES[:27] + b"~"))
    with pytest.raises(InputError, match="the network has 29 token ids and byte_values make 28"):
        model.save_pretrained(tmp_path)


@pytest.mark.parametrize("values", [50_000_000, [0] * 257, [97, 256], "ab"], ids=["size", "many", "large", "text"])
def test_what_are_no_byte_values_is_refused(values: Any, tmp_path: Path):
    wrapped("delay").save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "byte_values": values}))
    config = PolychronConfig(byte_values=values)  # without a network they are looked at when they are asked for
    for read in (lambda: AutoModelForCausalLM.from_pretrained(tmp_path), lambda: config.vocabulary):
        with pytest.raises(InputError, match="byte_values must be a list of at most 256 whole numbers in"):
            read()


def test_the_tokenizer_is_the_vocabulary(exported: Callable[[str], Path]):
    tokenizer = AutoTokenizer.from_pretrained(exported("delay"))
    text = "".join(chr(value) for value in VOCABULARY.byte_values) * 3
    assert tokenizer(text)["input_ids"] == ids(text.encode()).tolist()
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("Zürich €")["input_ids"] == ids("Zürich €".encode()).tolist()
    every = byte_tokenizer(Vocabulary(bytes(range(256))))
    text = "Zürich €\0\x7f\xadя"
    assert bytes(every(text)["input_ids"]) == text.encode()
    assert every.decode(list(text.encode())) == text
    assert len(every) == 257


def test_somebody_who_imports_nothing_of_ours_may_trust_the_folder(exported: Callable[[str], Path], tmp_path: Path):
    program = (
        "import sys; from transformers import AutoModelForCausalLM\n"
        "assert 'polychron' not in sys.modules\n"
        "print(type(AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, exported("delay")],
        capture_output=True, text=True, check=True, env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.stdout == "PolychronForCausalLM\n"


def test_what_cannot_be_is_refused():
    config = NETWORKS["delay"].to_dict()
    with pytest.raises(InputError, match="the network has 28 token ids and byte_values make 3"):
        PolychronForCausalLM(PolychronConfig(config, byte_values=list(b"ab")))
    with pytest.raises(InputError, match="kind of model must be one of"):
        PolychronForCausalLM(PolychronConfig({"kind": "perceptron"}, byte_values=list(b"ab")))
    huge = {**config, "n_tables": 1 << 10, "n_comparisons": 24}
    with pytest.raises(InputError, match="GB of memory"):
        PolychronForCausalLM(PolychronConfig(huge, byte_values=list(BYTE_VALUES[:27])))
    model = wrapped("delay")
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="a text of padding alone"):
        model(tokens, attention_mask=torch.tensor([[1, 1, 1], [0, 0, 0]]))
    with pytest.raises(ValueError, match="must not be 0 inside of a text"):
        model(tokens, attention_mask=torch.tensor([[1, 1, 1], [1, 0, 1]]))
    with pytest.raises(ValueError, match="float32"):
        model.to(torch.float16)(tokens)
