"""The whole shape of ``airlab.yaml``: every key is an attribute, and its docstring is its documentation.

Engines, hosts and tools stand in ``*_sections.py``, all else here. Pure: nothing reads a file or looks at the host.
What two keys must agree on is checked in ``crosscheck.py``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from app.manifest.engine_sections import EngineSection, NativeEngineSection
from app.manifest.host_sections import Match, MemorySection
from app.manifest.tool_sections import PolicySection, ToolsSection
from app.manifest.values import (
    DurationS,
    EnvName,
    GpuLayers,
    Section,
    ServerUrl,
    Tokens,
    Url,
)

ModelKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
"""A model's name in the YAML, in URLs and in file names: letters, digits, dot, dash, underscore."""
Alias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$", max_length=128)]
"""Another name that clients may ask for; slashes and colons are fine here."""

NO_DRAFT = "none"
"""In the place of a draft model's file, on a host that is to have none."""


def _inside_models(value: str) -> str:
    parts = value.split("/")
    if any(part.startswith(".") or not part for part in parts) or "\\" in value or not value.endswith(".gguf"):
        raise ValueError("must be a .gguf file below models/, written with forward slashes, without . or ..")
    return value


def _draft_or_none(value: str) -> str:
    try:
        return value if value == NO_DRAFT else _inside_models(value)
    except ValueError as exc:
        raise ValueError(f"{exc}, or {NO_DRAFT}") from exc


def _folder_inside_models(value: str) -> str:
    first, *parts = value.split("/")
    if first != "models" or not parts or any(part.startswith(".") or not part for part in parts) or "\\" in value:
        raise ValueError("must be a folder below models/, such as models/custom, written with forward slashes")
    return value


def _ranks_alone(value: list[Kind]) -> list[Kind]:
    # llama-server would answer with whatever lies in its memory when asked for embeddings (measured, b11434).
    if "rerank" in value and len(set(value)) > 1:
        raise ValueError("rerank stands alone; write [rerank], and a second model with the same filename for the rest")
    return value


ContextLength = Annotated[Tokens, Field(ge=512, le=1_048_576)]
AUTO_TAGS = ("auto", "number")
"""What a setting may be that is a number or left to AirLab."""


def _auto_kind(value: Any) -> str:
    return AUTO_TAGS[value != "auto"]


AutoContextLength = Annotated[
    Annotated[ContextLength, Tag("number")] | Annotated[Literal["auto"], Tag("auto")], Discriminator(_auto_kind)
]
WeightsName = Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f]+$"), AfterValidator(_inside_models)]
Parallel = Annotated[int, Field(ge=1, le=64)]
AutoParallel = Annotated[
    Annotated[Parallel, Tag("number")] | Annotated[Literal["auto"], Tag("auto")], Discriminator(_auto_kind)
]
MaxLoaded = Annotated[
    Annotated[Annotated[int, Field(ge=1, le=32)], Tag("number")] | Annotated[Literal["auto"], Tag("auto")],
    Discriminator(_auto_kind),
]
Threads = Annotated[int, Field(ge=1, le=1024)]
DraftTokens = Annotated[int, Field(ge=1, le=64)]
OptionalDraft = Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f]+$"), AfterValidator(_draft_or_none)]
"""A draft model's file, or the word none."""
CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]
Kind = Literal["chat", "embedding", "rerank"]
ToolMode = Literal["auto", "native", "guided"]
Numa = Literal["off", "distribute", "per-node"]


class DefaultsSection(Section):
    """What a request to /chat gets where it says nothing."""

    system_prompt: Annotated[str, Field(max_length=32_768)] = "You are a helpful assistant."
    """Put before every conversation."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    """Randomness of the choice of words, 0 for none."""
    max_tokens: Annotated[Tokens, Field(ge=1, le=1_048_576)] = 2048
    """Longest answer, in tokens."""
    top_p: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Only the likeliest words that together reach this probability are considered."""
    top_k: Annotated[int, Field(ge=0, le=1000)] = 40
    """Only so many of the likeliest words are considered; 0 for all."""
    repeat_penalty: Annotated[float, Field(ge=0, le=10)] = 1.1
    """Makes words that have just been used less likely; 1 for not at all."""


class ChatSection(Section):
    """How /chat keeps conversations and runs tools."""

    max_conversation_tokens: Annotated[Tokens, Field(ge=128, le=1_048_576)] = 3000
    """History that the model sees, in tokens; older turns are left out of its prompt, never out of the store."""
    max_tool_iterations: Annotated[int, Field(ge=1, le=20)] = 5
    """Rounds of tool calls in one turn."""
    tool_mode: ToolMode = "auto"
    """native: by the model's own chat template; guided: by a grammar, for any model; auto: native where it can."""


class ServerSection(Section):
    """Where AirLab listens. Read at start only."""

    host: Annotated[str, Field(min_length=1, max_length=253)] = "127.0.0.1"
    """Address to listen on. Anything but loopback needs both keys set (AIRLAB_API_KEY, AIRLAB_ADMIN_KEY)."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """TCP port; 0 takes any free one."""
    hosts: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+$", max_length=253)]] = []
    """Further names under which clients may address this server (the Host header), besides IP addresses,
    localhost and this machine's own name."""
    cors_origins: list[Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.\[\]:-]+$", max_length=253)]] = []
    """Web pages of these origins may call AirLab from a browser, such as "http://localhost:3000"."""


class Tuning(Section):
    """How llama-server is run.

    The first that says something wins: N_GPU_LAYERS or the layers command, the model's ``on`` for the profile in force,
    the model itself, the profile, what suits the host.
    """

    n_gpu_layers: GpuLayers | None = None
    """Layers kept on the GPU: all (or -1), 0 for none, or a number."""
    n_threads: Threads | None = None
    """Processor threads for generation; by default the cores less one, shared among max_loaded models."""
    parallel: AutoParallel | None = None
    """Conversations served at once (slots), each with the whole context_length; auto: up to 4, as memory allows."""
    cache_type: Annotated[CacheType | None, Field(examples=["q8_0"])] = None
    """Data type of the KV cache; q8_0 halves it against f16."""
    numa: Numa | None = None
    """For hosts with several processors. distribute: spread threads and memory over all NUMA nodes; per-node: keep a
    model on the processors and the memory of one node, as long as its file fits there; off: neither."""


class ProfileSection(Tuning):
    """What to do on one kind of host; the first profile that matches is taken."""

    match: Match = "any"
    """Which hosts this profile is for: any, or rules that must all hold."""
    engine: EngineSection = NativeEngineSection()
    """What runs the models here."""
    max_loaded: MaxLoaded = 1
    """Models loaded at the same time, at most; auto: as many as memory allows."""
    memory: MemorySection = MemorySection()
    """What all models together may take here."""
    default_model: ModelKey | None = None
    """Replaces the manifest's default_model on this host."""


class RemoteSection(Section):
    """A model that another server runs: any that speaks OpenAI's protocol, such as another host's AirLab, or vLLM."""

    url: ServerUrl
    """Where that server listens, such as http://ray-head:8000/v1."""
    key_env: EnvName | None = None
    """Name of the environment variable that holds its key; read when AirLab starts, or this is edited."""
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """What that server calls the model; the key where absent."""


class OverrideSection(Tuning):
    """What is different for one model on one kind of host; wins over the model's own values and the profile's."""

    context_length: AutoContextLength | None = None
    """Context in tokens, for each conversation."""
    n_ctx: AutoContextLength | None = None
    """The same as context_length, by the engine's name for it; write one of the two."""
    draft_model: OptionalDraft | None = None
    """Another draft model here, or none, such as where a second model would only share the processors."""
    draft_tokens: DraftTokens | None = None
    """Tokens that the draft model guesses at once here, at most."""

    @model_validator(mode="after")
    def _says_context_once(self) -> OverrideSection:
        if self.context_length is not None and self.n_ctx is not None:
            raise ValueError("says context_length and n_ctx, which are the same; write one of the two")
        return self


class ModelSection(Tuning):
    """One model. What it leaves out, the profile decides, and what that leaves out, the host."""

    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Its name for people; the key where absent."""
    filename: WeightsName | None = None
    """The GGUF file, below models/."""
    adapters: Annotated[list[WeightsName], Field(max_length=8)] = []
    """LoRA adapters laid over it, below models/."""
    mmproj: WeightsName | None = None
    """Its multimodal projector, a GGUF file below models/: with it the model takes images, or sound, as the projector
    was made for."""
    draft_model: WeightsName | None = None
    """A smaller model of the same vocabulary, below models/, that guesses the next tokens for this one to check
    (speculative decoding): the same answers, faster where a GPU has time to spare."""
    draft_tokens: DraftTokens | None = None
    """Tokens that the draft model guesses at once, at most; where absent, llama-server's own number."""
    description: str = ""
    """What it is good for, in a sentence."""
    context_length: AutoContextLength = 4096
    """Context in tokens, for each conversation; auto: as long as the model was trained for, as memory allows."""
    on: dict[ModelKey, OverrideSection] = {}
    """What is different on a host, by the name of its profile."""
    kind: Annotated[list[Kind], Field(min_length=1), AfterValidator(_ranks_alone)] = ["chat"]
    """What it serves: chat, embedding, or both; or rerank alone, for a model that says how well texts fit a query."""
    vram_estimate: str | None = None
    """How much memory to expect, in words."""
    recommended: bool = False
    """Shown first in menus."""
    usage: str | None = None
    """How to use it, in words."""
    hf_repo: Annotated[str, Field(pattern=r"^[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?$", max_length=200)] | None = None
    """Where it comes from on the Hugging Face hub, as org/repo:quantisation."""
    download_url: Url | None = None
    """Where it can be downloaded from directly: https, or http from this network's own servers."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    """SHA-256 that the file at download_url must have, in hexadecimal. Of a hub's files the hub says it itself."""
    remote: RemoteSection | None = None
    """The server that runs it, where that is another one; then nothing of it lies or runs here."""
    base_model: ModelKey | None = None
    """The model that this one was fine-tuned from."""
    training_data: str | None = None
    """What this one was fine-tuned on, in words."""
    is_finetuned: bool = False
    """True for a fine-tune; its file lies in models/custom/."""
    aliases: list[Alias] = []
    """Other names that clients may ask for."""
    idle_timeout: Annotated[DurationS, Field(ge=1, le=30 * 86400)] | None = None
    """Unload it after this long without a request, such as 15m; never where absent."""
    tool_mode: ToolMode | None = None
    """How it calls tools; chat.tool_mode where absent."""
    preload: bool = False
    """Load it when AirLab starts."""
    pin: bool = False
    """Never unload it to make room for another model."""
    not_with: Annotated[list[ModelKey], Field(max_length=64)] = []
    """Models that are never loaded while this one is, and the other way round: whoever is wanted sends them away."""

    @property
    def file_names(self) -> tuple[str, ...]:
        """Every file that it names, on whatever host, below models/."""
        named = (self.filename, *self.adapters, *self.companion_names)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    @property
    def companion_names(self) -> tuple[str, ...]:
        """Its projector and its draft models, on whatever host: what comes out of the same repository as it does."""
        drafts = (self.draft_model, *(override.draft_model for override in self.on.values()))
        named = (self.mmproj, *(name for name in drafts if name != NO_DRAFT))
        return tuple(dict.fromkeys(name for name in named if name not in {None, self.filename}))


class FinetunedSection(Section):
    """Where fine-tunes are dropped: models and LoRA adapters in this folder appear by themselves."""

    directory: Annotated[
        str, Field(max_length=255, pattern=r"^[^\x00-\x1f]+$"), AfterValidator(_folder_inside_models)
    ] = "models/custom"
    """The folder, below models/. NAME.yaml beside NAME.gguf may describe it, with the keys of a model."""


class Manifest(Section):
    """The top level of airlab.yaml."""

    version: Literal[1]
    """Version of this format; always 1."""
    server: ServerSection = ServerSection()
    """Where AirLab listens."""
    defaults: DefaultsSection = DefaultsSection()
    """What a request to /chat gets where it says nothing."""
    chat: ChatSection = ChatSection()
    """How /chat keeps conversations and runs tools."""
    default_model: ModelKey
    """The model that serves when a request names none."""
    profiles: Annotated[dict[ModelKey, ProfileSection], Field(min_length=1)] = {"generic": ProfileSection()}
    """Kinds of host; the first that matches is taken, AIRLAB_PROFILE forces one."""
    models: Annotated[dict[ModelKey, ModelSection], Field(min_length=1)]
    """The models, by key."""
    finetuned: FinetunedSection = FinetunedSection()
    """Models that appear by themselves."""
    tools: ToolsSection = ToolsSection()
    """What models may be offered to call."""
    policy: PolicySection = PolicySection()
    """What tools may do."""
