"""How Assay is set up: file, then environment, then flags, the later winning.

`load` returns the frozen settings and where each came from. An unknown key is an error that names
the nearest known one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    StringConstraints,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict
from pydantic_settings import SettingsError as UndecodableVariable

from assay import toml_file, validation
from assay.cards import paths
from assay.cards.uncertainty import RULES_WITH_PENALTY
from assay.errors import SettingsError, is_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic_settings import PydanticBaseSettingsSource

PREFIX = "ASSAY_"
DEFAULT_FILE = Path("assay.toml")
_FILE_VARIABLE = "ASSAY_CONFIG"
_CLIENT_PREFIX = "ASSAY_CLIENT_"  # options of `assay.client.adapters`


def _text(name: str) -> str:
    if not is_name(name):
        raise ValueError("a name is one line of text, without blanks around it")
    return name


CommaSeparated = Annotated[tuple[str, ...], NoDecode]
Origin = Annotated[str, StringConstraints(pattern=r"^(\*|https?://[^/\s]+)$")]
Host = Annotated[str, StringConstraints(pattern=r"^(\*|[\w.-]+|\[?[0-9a-fA-F:.]+\]?)$")]  # no port
Name = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(_text)]
Pinned = Annotated[str, StringConstraints(pattern=r"^.+@[0-9a-f]{12,64}$")]  # NAME@DIGEST


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _form(value: object) -> str:
    return "as-table" if isinstance(value, dict | BaseModel) else "as-list"


class Ensemble(_Table):
    """Served models combined into one reward."""

    members: Annotated[
        Annotated[tuple[str, ...], Field(min_length=1), Tag("as-list")]
        | Annotated[dict[Name, str], Field(min_length=1), Tag("as-table")],
        Discriminator(_form),
    ]  # a table has them by what answers call them
    rule: Literal["mean", "median", "min", "lower_bound", "variance_penalty"] = "mean"
    penalty: float | None = Field(default=None, ge=0, le=1e6)
    standardize: bool = False

    @model_validator(mode="after")
    def _has_a_penalty(self) -> Self:
        if self.penalty is not None and self.rule not in RULES_WITH_PENALTY:
            raise ValueError("'penalty' goes with rule = 'lower_bound' or 'variance_penalty'")
        return self

    @classmethod
    def of(cls, said: Ensemble | tuple[str, ...]) -> Ensemble:
        """Return the long form; a list names members alone."""
        return said if isinstance(said, Ensemble) else cls(members=said)

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names as they are served."""
        return tuple(self.members.values()) if isinstance(self.members, dict) else self.members


CompositeRule = Literal["weighted", "min", "lexicographic"]


class Part(_Table):
    """One part of a composite: a served target's score, or one of its attributes."""

    target: str
    attribute: str | None = None
    weight: float = Field(default=1.0, allow_inf_nan=False)
    normalize: bool = False
    tolerance: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    calibrated: bool = False  # the tolerance is a probability, by the target's calibration

    @model_validator(mode="after")
    def _has_a_probability(self) -> Self:
        if self.calibrated and not (self.tolerance is not None and 0.5 <= self.tolerance < 1):
            raise ValueError(
                "with 'calibrated' give 'tolerance' as the probability that the better one is "
                "better, from 0.5 to below 1"
            )
        return self


class Gate(_Table):
    """The composite's reward counts only where a part is at least so much."""

    part: str
    at_least: float = Field(allow_inf_nan=False)
    otherwise: float = Field(allow_inf_nan=False)
    calibrated: bool = False  # the part is a probability, by its target's calibration

    @model_validator(mode="after")
    def _is_a_probability(self) -> Self:
        if self.calibrated and not 0 <= self.at_least <= 1:
            raise ValueError("with 'calibrated' give 'at_least' as a probability, from 0 to 1")
        return self


class Composite(_Table):
    """Several targets as one reward: by a rule over their weighted parts, behind a gate if any.

    Its parts' sum, the smallest of them, or an order: by the first, then by the second and so on
    among those that are alike within the part's tolerance. A gate and a tolerance may be
    probabilities, by the calibration of the part's target.
    """

    rule: CompositeRule = "weighted"
    parts: dict[str, Part] = Field(min_length=1)
    gate: Gate | None = None


class Remote(_Table):
    """Another server that computes a model, whose template, tokenizer and card are here."""

    url: str = Field(pattern=r"^https?://")
    contract: Literal["vllm-classify", "vllm-pooling", "sglang", "tei", "assay"]
    model: str | None = None  # what it is called there
    key_variable: str | None = None  # of the environment, with the server's API key
    timeout_s: float = Field(default=60.0, gt=0)


class Settings(BaseSettings):
    """Everything an operator may set. Names end in their unit."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    models: CommaSeparated = Field(
        default=("starter",),
        min_length=1,
        description="What to serve: repository names, folders or hub ids; first is default. In "
        "the environment between commas, or a JSON list where a path has a comma.",
    )
    names: dict[Name, Annotated[str, StringConstraints(min_length=1)]] = Field(
        default={},
        description="What else to serve, each under a name of its own: a path, hub id or "
        "NAME=PATH by name. What `models` has, too, is served under that name only.",
    )
    repository: Path = Field(
        default=Path("models"), description="The model repository: one folder a model."
    )
    ensembles: dict[
        str,
        Annotated[
            Annotated[tuple[str, ...], Tag("as-list")] | Annotated[Ensemble, Tag("as-table")],
            Discriminator(_form),
        ],
    ] = Field(
        default={},
        description="Served models combined into one reward, by name: a list, or a table with "
        "`members`, `rule`, `penalty` and `standardize`.",
    )
    aliases: dict[str, str] = Field(
        default={}, description="Other names under which requests may ask for a served target."
    )
    composites: dict[str, Composite] = Field(
        default={}, description="Served targets and attributes as one reward, by name."
    )
    calibrations: dict[str, Annotated[str, StringConstraints(min_length=1)]] = Field(
        default={},
        description="Files of `assay calibrate` by served target; one named here is taken in "
        "place of the calibration.toml beside the target's card.",
    )
    remotes: dict[str, Remote] = Field(
        default={},
        description="Served models that another server computes, by name: its url and contract.",
    )
    trust_remote_code: Annotated[tuple[Pinned, ...], NoDecode] = Field(
        default=(),
        description="NAME@DIGEST of served models that may run code of their own, in their worker "
        "processes; all 64 hex digits, as `assay inspect` prints them.",
    )
    worker_variables: CommaSeparated = Field(
        default=(),
        description="Further variables of the environment that device processes get, by name; they "
        "get what their libraries need, and nothing that is called a key, token or password.",
    )
    host: str = Field(default="127.0.0.1", description="Address to bind.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to bind; 0 picks a free one.")
    device: CommaSeparated = Field(
        default=("auto",),
        description="auto (every visible GPU, else the CPU), cpu, cuda, cuda:N, or a list; one "
        "worker each.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto is float32 on CPU, the checkpoint's own on GPU."
    )
    quantize: Literal["auto", "none", "int8", "fp8"] = Field(
        default="auto",
        description="Round a model's linear layers, and what goes into them, to eight bits: int8, "
        "or fp8 (GPU; a CPU only shows what it would cost). A model's warnings say by how much "
        "its scores move. auto is what its card says, else none.",
    )
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of a worker; default all cores."
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Compile the CPU attention kernel and, from 20M parameters (on: always), the "
        "model's blocks; auto does without where there is no C++ compiler. On a GPU auto takes "
        "kernels of ours in Triton for what is between a layer's products, and launches small "
        "batches as CUDA graphs; on compiles the blocks, off does nothing.",
    )
    attention: Literal["auto", "tree", "varlen", "native", "blocks"] = Field(
        default="auto",
        description="What computes attention: tree (GPU, our kernel in Triton), varlen (GPU, "
        "torch's flash attention), native (CPU, our compiled kernel) or blocks (torch's products); "
        "auto takes the first that is right, and a model's warnings say why it isn't a faster one. "
        "A model that can't run as this says isn't served; one that is padded by its card, or runs "
        "code of its own, is served as it is.",
    )
    invariant: bool = Field(
        default=False,
        description="On a GPU, let no score's bits depend on what shares its batch: products by a "
        "kernel of ours in Triton with one order of sums, slower than the library's; auto takes "
        "no flash attention. A model's warnings say what depends on the batch all the same. On a "
        "CPU bits don't depend on the batch without it, but in bfloat16 where the processor has "
        "AMX: there products are of 64 rows at a time.",
    )
    max_tokens: int | None = Field(
        default=None, ge=1, description="Limit of an item; default the card's or the model's."
    )
    batch_tokens: int | None = Field(
        default=None, ge=16, description="Token budget of a batch; default found at warm-up."
    )
    prefix_cache_mb: int | None = Field(
        default=None,
        ge=0,
        description="Memory for the keys and values of prefixes that a model keeps between "
        "batches; default 512 on CPU, on a GPU a tenth of what its models leave free, shared among "
        "them; 0 keeps none.",
    )
    prefix_sharing: Literal["caller", "all"] = Field(
        default="caller",
        description="Whose requests share the prefixes that they begin with alike: those of one "
        "key's name, or all, who can then find out what others sent.",
    )
    max_queued_tokens: int = Field(
        default=16_000_000, ge=1, description="Tokens that may wait before requests are refused."
    )
    max_queued_requests: int = Field(
        default=65_536, ge=1, description="Requests that may wait before others are refused."
    )
    max_wait_s: float = Field(
        default=600.0,
        gt=0,
        description="Longest that anything may wait: no more is admitted than can be served in "
        "that time, and what waits longer all the same is answered with 504 before it costs "
        "compute; inf for no limit.",
    )
    watchdog_s: float = Field(
        default=60.0,
        gt=0,
        description="A worker that is at one batch for longer, and for 20 times what its tokens "
        "take, is killed and started again.",
    )
    load_timeout_s: float = Field(
        default=900.0,
        gt=0,
        description="A worker that says nothing for so long while it loads is killed; each stage "
        "of each model (load, verify, compile, warm up) may take that long; inf for no limit.",
    )
    max_body_bytes: int = Field(
        default=64 * 1024**2,
        ge=1024,
        le=512 * 1024**2,
        description="Largest request body taken; 512 MiB at the most.",
    )
    max_held_bytes: int = Field(
        default=2 * 1024**3,
        ge=1024**2,
        description="Memory that requests may hold: bodies with what is made of them, answers that "
        "aren't sent. A caller may hold as much as it leaves free: alone half of it.",
    )
    body_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="How long a request's head, and then its body, may take to arrive; a body a "
        "second more for each 16 KiB of it.",
    )
    max_connections: int | None = Field(
        default=None,
        ge=1,
        description="Connections that may be open before others are refused; default what the "
        "limit of open files allows, which is raised as far as it may be.",
    )
    write_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="How long a caller may take to read an answer before the connection is cut "
        "off, and a second more for each 16 KiB that it has read.",
    )
    hold_while_loading_s: float = Field(
        default=20.0,
        ge=0,
        description="How long a request waits for models that load, or a worker that is started "
        "again, before it is refused; 0 refuses it at once.",
    )
    drain_timeout_s: float = Field(
        default=30.0, ge=0, description="How long accepted work may take after SIGTERM."
    )
    api_key: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        validate_default=False,  # none is fine where none is given
        description="Keys, comma-separated, required on every route but health.",
    )
    key_file: Path | None = Field(
        default=None,
        description="TOML file of named API keys with rights and hashes, as `assay key` writes "
        "them; read again when it changes.",
    )
    unauthorized_per_minute: float = Field(
        default=60.0,
        ge=1,
        description="How many requests a minute without a good key an address may send before "
        "their refusals are held back, up to two seconds; inf for no limit.",
    )
    open_health: bool = Field(
        default=True,
        description="The health routes answer without a key; if off, to a key of any right.",
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM file of the server's certificate and its chain, for HTTPS."
    )
    tls_key: Path | None = Field(
        default=None, description="PEM file of that certificate's private key, without a password."
    )
    cors_origins: Annotated[tuple[Origin, ...], NoDecode] = Field(
        default=(),
        description="Origins of web pages that may ask, comma-separated, or *; default none.",
    )
    allowed_hosts: Annotated[tuple[Host, ...], NoDecode] = Field(
        default=(),
        description="Names, comma-separated, by which this server may be asked over loopback while "
        "no key is needed, beside localhost and `host`; * for any.",
    )
    admin_key: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        validate_default=False,
        description="Keys, comma-separated, for every route and /admin; without one, or one of "
        "the key file, nobody may change what is served.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="How much is logged."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Log lines for a person, or one JSON object each."
    )
    log_sample: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="The share of requests that went well that have a line in the log; what "
        "failed always has one.",
    )
    tracing: bool = Field(
        default=False,
        description="Send a span of each request, and of its stages, by OTLP to where the standard "
        "OTEL_... variables say; needs the extra 'tracing'.",
    )

    @field_validator(
        *("models", "device", "api_key", "admin_key", "cors_origins", "allowed_hosts"),
        *("trust_remote_code", "worker_variables"),
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        """Return a list that is written as a string, between commas or in JSON."""
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            with contextlib.suppress(ValueError):
                return tuple(json.loads(value))
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("models", mode="before")
    @classmethod
    def _keep_commas(cls, value: object) -> object:
        """Take a string for one path, not for several, where only that exists."""
        if not (isinstance(value, str) and "," in value and paths.exists(value.strip())):
            return value
        parts = [part.strip() for part in value.split(",")]
        if all(map(paths.exists, parts)):
            raise ValueError(
                f"'{value}' is a folder, and so is each of its parts; write a JSON list, such as "
                f"{json.dumps([value])}"
            )
        return (value.strip(),)

    @field_validator("repository", "key_file", "tls_certificate", "tls_key", mode="before")
    @classmethod
    def _locate(cls, value: object) -> object:
        return paths.of(value) if isinstance(value, str) else value

    @field_validator("names")
    @classmethod
    def _are_different(cls, value: dict[str, str]) -> dict[str, str]:
        for reference, count in Counter(map(_same, value.values())).items():
            if count > 1:
                raise ValueError(f"'{reference}' has two names; give it one, and an alias")
        return value

    @field_validator("api_key", "admin_key")
    @classmethod
    def _is_a_key(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not value or not all(key.get_secret_value() for key in value):
            raise ValueError("it is given, but empty; give a key, or leave the setting out")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take only what `load` merged, so that every value's origin is known."""
        return (init_settings,)


def load(
    flags: Mapping[str, Any] | None = None, config: Path | None = None
) -> tuple[Settings, dict[str, str]]:
    """Merge file, environment and flags (None means not given); return settings and origins.

    Raises:
        SettingsError: A key is unknown, or a value is of the wrong type or out of range.
    """
    file = config or _file()
    may_be_absent = config is None and file == DEFAULT_FILE
    layers = [
        (str(file), _read(file, may_be_absent=may_be_absent)),
        ("environment", _environment()),
        ("flag", {key: value for key, value in (flags or {}).items() if value is not None}),
    ]
    merged: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    for origin, values in layers:
        merged |= values
        origins |= dict.fromkeys(values, origin)
    try:
        return _with_named(Settings(**merged), origins), origins
    except ValidationError as error:
        location, said = validation.first(error, Settings)
        origin = origins.get(str(location[0]), "?")
        raise SettingsError(f"setting '{_path(location)}' (from {origin}): {said}") from error


def _path(location: Sequence[int | str]) -> str:
    """Return where an error is, without the names that a value's forms have here."""
    return ".".join(str(part) for part in location if part not in ("as-list", "as-table"))


def _with_named(settings: Settings, origins: Mapping[str, str]) -> Settings:
    """Return the settings with what `names` has among the models, and its names by reference."""
    if not settings.names:
        return settings
    named = {_same(reference): reference for reference in settings.names.values()}
    references = () if origins["models"] == "default" else settings.models
    models = dict.fromkeys(
        [*(named.get(_same(reference), reference) for reference in references), *named.values()]
    )
    return settings.model_copy(update={"models": tuple(models)})


def _same(reference: str) -> str:
    """Return what is equal for one path with and without a slash at its end."""
    return reference.rstrip("/") or reference


def rereader(flags: Mapping[str, Any], config: Path | None = None) -> Callable[[], Settings]:
    """Return what loads these settings again. A file that was there once must then be there.

    Without it a server would go on with defaults that nobody chose.
    """
    file = config or _present()

    def reread() -> Settings:
        nonlocal file
        file = file or _present()
        return load(flags, file)[0]

    return reread


def _file() -> Path:
    return Path(os.environ.get(_FILE_VARIABLE, DEFAULT_FILE))


def _present() -> Path | None:
    file = _file()
    return file if os.path.lexists(file) else None


def _read(file: Path, *, may_be_absent: bool) -> dict[str, Any]:
    try:
        values = toml_file.parsed(toml_file.content(file).decode())
    except FileNotFoundError:
        if may_be_absent:
            return {}
        raise SettingsError(f"the settings file {file} doesn't exist") from None
    except OSError as error:
        raise SettingsError(
            f"the settings file {file} can't be read: {error.strerror or error}"
        ) from error
    except ValueError as error:
        raise SettingsError(f"{file} is not valid TOML: {error}") from error
    for key in values:
        _check_known(key, where=str(file))
    return values


def _environment() -> dict[str, Any]:
    for variable, value in os.environ.items():
        is_ours = variable.startswith(PREFIX) and not variable.startswith(_CLIENT_PREFIX)
        if is_ours and (_SERVICE_LINK.fullmatch(variable) or _ADDRESS.match(value)):
            raise SettingsError(
                f"{variable} is Kubernetes' word for where a Service called 'assay…' is, not a "
                "setting; put 'enableServiceLinks: false' into the pod's spec, or call the Service "
                "otherwise"
            )
        if is_ours and variable != _FILE_VARIABLE:
            _check_known(variable.removeprefix(PREFIX).lower(), where="the environment")
    try:
        return EnvSettingsSource(Settings)()
    except UndecodableVariable as error:
        raise SettingsError(f"{error}; in the environment a table is written as JSON") from error


# What Kubernetes sets in every pod for each Service of the namespace: its name in capitals
# and one of these.
_SERVICE_LINK = re.compile(
    rf"{PREFIX}(.+_)?(SERVICE_(HOST|PORT(_.+)?)|PORT_\d+_(TCP|UDP|SCTP)(_.+)?)"
)
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")  # of ASSAY_PORT


def _check_known(key: str, where: str) -> None:
    if key in Settings.model_fields:
        return
    near = get_close_matches(key, Settings.model_fields, n=1, cutoff=0.0)
    raise SettingsError(f"unknown setting '{key}' in {where}; did you mean '{near[0]}'?")
