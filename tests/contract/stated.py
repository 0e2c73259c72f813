"""What the contracts' own servers and clients say of their answers, written from them alone.

A form is a type, a value that is always the same, a dictionary of all fields in their order, `Has`
of some fields in their order, a list whose every element has the one form, `Named` for an object
whose keys are the caller's or the model's, `OrNull` or `OrEmpty`. A tuple has a form for each
element. What has nothing in it, where a form says what is in it, isn't of the form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Has:
    """An object with these fields in this order; others may stand between."""

    fields: dict[str, Any]


@dataclass(frozen=True)
class Named:
    """An object whose every value has the form."""

    value: Any


@dataclass(frozen=True)
class OrNull:
    """The form, or null."""

    value: Any


@dataclass(frozen=True)
class OrEmpty:
    """The list, or an empty one."""

    value: list[Any]


def fits(stated: Any, found: Any, kinds: dict[str, type], where: str = "answer") -> None:
    """Check a golden answer, in which `kinds` are placeholders, against a form."""
    match stated:
        case type():
            kind = kinds.get(found) if isinstance(found, str) else None
            assert (kind or type(found)) is stated, f"{where} is {found!r}, no {stated.__name__}"
        case OrNull(value):
            fits(None if found is None else value, found, kinds, where)
        case OrEmpty(value):
            fits(value if found else (), found, kinds, where)
        case Named() | Has() | dict():
            assert isinstance(found, dict), where
            for name, form in _fields(stated, found, where).items():
                fits(form, found[name], kinds, f"{where}.{name}")
        case list() | tuple():
            assert isinstance(found, list), where
            forms = stated if isinstance(stated, tuple) else stated * max(1, len(found))
            assert len(forms) == len(found), where
            for place, pair in enumerate(zip(forms, found, strict=True)):
                fits(*pair, kinds, f"{where}[{place}]")
        case _:
            assert (type(found), found) == (type(stated), stated), where


def _fields(stated: Named | Has | dict[str, Any], found: dict[str, Any], where: str) -> Any:
    """Return the form of each field that is to be checked; they are there, and in order."""
    if isinstance(stated, Named):
        assert found, where
        return dict.fromkeys(found, stated.value)
    fields = stated.fields if isinstance(stated, Has) else stated
    names = [name for name in found if isinstance(stated, dict) or name in fields]
    assert names == list(fields), where
    return fields


# --- vLLM (vllm/entrypoints/pooling/*/protocol.py, exception_handling/error_response.py) --------

_VLLM_USAGE = {
    "prompt_tokens": int,
    "total_tokens": int,
    "completion_tokens": 0,
    "prompt_tokens_details": None,
}


def _vllm(entry: Any) -> Any:
    return {
        "id": str,
        "object": "list",
        "created": int,
        "model": str,
        "data": [entry],
        "usage": _VLLM_USAGE,
    }


def _vllm_error(kind: str, code: int) -> Any:
    return {"error": {"message": str, "type": kind, "param": OrNull(str), "code": code}}


_CLASSIFIED = _vllm({"index": int, "label": OrNull(str), "probs": [float], "num_classes": int})
_SCORED = _vllm({"index": int, "object": "score", "score": float})
_TOKENS = {"prompt_tokens": int, "total_tokens": int}


def _pooled(data: Any) -> Any:
    return _vllm({"index": int, "object": "pooling", "data": data})


# --- SGLang (srt/entrypoints, docs/basic_usage/native_api.ipynb) --------------------------------


def _flat(kind: str, code: int) -> Any:
    return {
        "object": "error",
        "message": str,
        "type": kind,
        "param": OrNull(str),
        "code": code,
    }


_EMBEDDED = {
    "embedding": [float],
    "meta_info": {"id": str, "prompt_tokens": int, "e2e_latency": float},
}
_LISTED = {
    "object": "list",
    "data": [{"object": "embedding", "index": int, "embedding": [float]}],
    "model": str,
    "usage": Has(_TOKENS),
}
_JOINED = {"scores": [[float]], "model": str, "usage": Has(_TOKENS), "object": "scoring"}

# --- Text Embeddings Inference (router/src/http/types.rs, docs/openapi.json) --------------------

_LABEL = {"score": float, "label": str}
_LABELS = {"id2label": Named(str), "label2id": Named(int)}


def _tei_error(kind: str) -> Any:
    return {"error": str, "error_type": kind}


def _info(kind: str) -> Any:
    return {
        "model_id": str,
        "model_sha": OrNull(str),
        "model_dtype": str,
        "served_model_name": str,
        "model_type": {kind: _LABELS},
        "max_concurrent_requests": int,
        "max_input_length": int,
        "max_batch_tokens": int,
        "max_batch_requests": OrNull(int),
        "max_client_batch_size": int,
        "auto_truncate": bool,
        "tokenization_workers": int,
        "version": str,
        "sha": OrNull(str),
        "docker_label": OrNull(str),
    }


# --- Cohere, Jina, Infinity (cohere/v2/types, fastapi_schemas/pymodels.py) ----------------------

_RELEVANCE = {"index": int, "relevance_score": float}


def _cohere(version: str) -> Any:
    return Has(
        {
            "id": str,
            "results": [Has(_RELEVANCE)],
            "meta": Has(
                {
                    "api_version": {"version": version, "is_experimental": False},
                    "billed_units": {"search_units": 1},
                    "tokens": {"input_tokens": int, "output_tokens": int},
                }
            ),
        }
    )


_STATS = {
    "queue_fraction": float,
    "queue_absolute": int,
    "results_pending": int,
    "batch_size": int,
}
_DETAIL = {"detail": [{"loc": list, "msg": str, "type": str}]}
_OPENAI_ERROR = {"message": str, "type": str, "param": OrNull(str), "code": str}

# --- trainers (openrlhf/cli/serve_rm.py, api/protocol.py, oracles/remote, genrm_compare) --------

_NATIVE = {
    "error": {"code": str, "message": str, "param": str, "retryable": bool},
    "request_id": str,
}
_MET = {
    "response_i": int,
    "response_j": int,
    "judge_idx": int,
    "score_1": float,
    "score_2": float,
    "ranking": float,
}
_COMPLETION = {
    "id": str,
    "object": "chat.completion",
    "created": int,
    "model": str,
    "choices": [
        {
            "index": int,
            "message": {"role": "assistant", "content": str},
            "logprobs": {"content": [Has({"token": str, "logprob": float})]},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": int, "completion_tokens": 0, "total_tokens": int},
}

# --- System One and Decisions (docs of TypeSafe, openai.types.decision, decision_models.mdx) ----

_SYSTEM_ONE = {
    "model": str,
    "answers": {
        "team": {
            "type": "choice",
            "choice": str,
            "confidence": float,
            "probabilities": Named(float),
        },
        "tone": {
            "type": "score",
            "score": float,
            "confidence": float,
            "legend": Named(str),
            "probabilities": Named(float),
        },
    },
    "usage": {"input_tokens": int, "output_tokens": 0},
}
_ANSWERS = (
    {
        "type": "choice",
        "name": str,
        "choice": str,
        "probabilities": [{"value": str, "probability": float}],
        "confidence": float,
    },
    {
        "type": "score",
        "name": None,
        "score": float,
        "probabilities": [{"value": int, "label": str, "probability": float}],
        "confidence": float,
    },
)
_OPENAI_USAGE = {
    "input_tokens": int,
    "input_tokens_details": {"cached_tokens": int, "cache_write_tokens": int},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": int,
}
_SGLANG_ANSWERS = {
    "object": "decisions",
    "model": str,
    "prompt_format_version": int,
    "answers": {
        "team": {"type": "choice", "probabilities": Named(float), "choice": str},
        "frustration": {"type": "score", "probabilities": Named(float), "score": float},
    },
    "usage": Has(_TOKENS),
}

# --- ms-swift (swift/infer_engine/infer_client.py, protocol.py) ---------------------------------

_SWIFT_ERROR = {"object": "error", "message": str}

STATED: dict[str, Any] = {
    "decisions-bad-request": {"error": _OPENAI_ERROR},
    "decisions-predicate": {"error": _OPENAI_ERROR},
    "decisions-questions": {"model": str, "answers": _ANSWERS, "usage": _OPENAI_USAGE},
    "decisions-sglang-bad-request": _flat("BadRequestError", 400),
    "decisions-sglang-questions": _SGLANG_ANSWERS,
    "decisions-sglang-unknown-model": _flat("NotFoundError", 404),
    "decisions-sglang-yes-no": _flat("NotImplementedError", 501),
    "decisions-unknown-model": {"error": {**_OPENAI_ERROR, "code": "model_not_found"}},
    "infinity-bad-request": _DETAIL,
    "infinity-classify": {
        "object": "classify",
        "data": [[_LABEL]],
        "model": str,
        "usage": _TOKENS,
        "id": str,
        "created": int,
    },
    "infinity-models": Has(
        {
            "object": "list",
            "data": [
                Has(
                    {
                        "id": str,
                        "stats": _STATS,
                        "object": "model",
                        "created": int,
                        "backend": str,
                        "capabilities": OrEmpty([str]),
                    }
                )
            ],
        }
    ),
    "infinity-rerank": {
        "object": "rerank",
        "results": [{"relevance_score": float, "index": int, "document": OrNull(str)}],
        "model": str,
        "usage": _TOKENS,
        "id": str,
        "created": int,
    },
    "infinity-unknown-model": {
        "error": {"message": str, "type": str, "param": OrNull(str), "code": 404}
    },
    "kserve-infer": {
        "model_name": str,
        "model_version": str,
        "id": str,
        "outputs": [{"name": str, "datatype": str, "shape": [int], "data": [float]}],
    },
    "kserve-unknown-model": {"error": str},
    "llama-factory-bad-request": {"detail": str},
    "llama-factory-scores": {
        "id": str,
        "object": "score.evaluation",
        "model": str,
        "scores": [float],
    },
    "ms-swift-reward": Has(
        {
            "model": str,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": float},
                    "finish_reason": "stop",
                }
            ],
            "usage": Has({"prompt_tokens": int, "completion_tokens": int, "total_tokens": int}),
        }
    ),
    "ms-swift-unknown-model": Has(_SWIFT_ERROR),
    "nemo-gym-compare": {
        "rewards": [float],
        "comparison_results": [_MET],
        "metrics": Named(float),
    },
    "nemo-gym-one-response": {"rewards": [float], "comparison_results": None, "metrics": None},
    "nemo-gym-unknown-model": _NATIVE,
    "nvidia-attributes": _COMPLETION,
    "nvidia-reward": _COMPLETION,
    "nvidia-unknown-model": {"error": _OPENAI_ERROR, **_SWIFT_ERROR},
    "oat-compare": {"batch_first_win_prob": [float]},
    "oat-feedback": {"batch_score": [float], "batch_first_win_prob": ()},
    "oat-unknown-model": _NATIVE,
    "openai-models": {
        "object": "list",
        "data": [Has({"id": str, "object": "model", "created": int, "owned_by": str})],
    },
    "openrlhf-empty": {"rewards": (), "scores": (), "extra_logs": {}},
    "openrlhf-rewards": {"rewards": [float], "scores": [float], "extra_logs": {}},
    "openrlhf-unknown-model": _NATIVE,
    "ranking-mixedbread": {
        "usage": _TOKENS,
        "model": str,
        "data": [{"index": int, "score": float, "input": str, "object": "rank_result"}],
        "object": "list",
        "top_k": int,
        "return_input": bool,
    },
    "ranking-mixedbread-unknown-model": {"object": "error", "message": str, "detail": str},
    "ranking-nvidia": Has({"rankings": [{"index": int, "logit": float}]}),
    "ranking-nvidia-hosted": Has({"rankings": [{"index": int, "logit": float}]}),
    "ranking-nvidia-unknown-model": Has({"object": "error", "message": str}),
    "ranking-voyage": {
        "object": "list",
        "data": [{"index": int, "relevance_score": float, "document": str}],
        "model": str,
        "usage": {"total_tokens": int},
    },
    "ranking-voyage-unknown-model": {"detail": str},
    "rerank-cohere-v1": _cohere("1"),
    "rerank-cohere-v2": _cohere("2"),
    "rerank-jina": Has(
        {
            "model": str,
            "usage": _TOKENS,
            "results": [
                Has({"index": int, "document": Has({"text": str}), "relevance_score": float})
            ],
        }
    ),
    "rerank-sglang": [
        {
            "score": float,
            "document": OrNull(str),
            "index": int,
            "meta_info": Has({"id": str, "prompt_tokens": int}),
        }
    ],
    "rerank-unknown-model": Has(
        {
            "message": str,
            "error": {"message": str, "type": "NotFoundError", "param": str, "code": 404},
        }
    ),
    "rerank-vllm": Has(
        {
            "id": str,
            "model": str,
            "usage": _TOKENS,
            "results": [
                {
                    "index": int,
                    "document": {"text": OrNull(str), "multi_modal": None},
                    "relevance_score": float,
                }
            ],
        }
    ),
    "sglang-classify": [_EMBEDDED],
    "sglang-classify-bad-request": {"error": {"message": str}},
    "sglang-classify-conv": _EMBEDDED,
    "sglang-classify-ids": [_EMBEDDED],
    "sglang-classify-one": _EMBEDDED,
    "sglang-embeddings": _LISTED,
    "sglang-embeddings-steps": _LISTED,
    "sglang-judge": [_EMBEDDED],
    "sglang-model-info": Has({"model_path": str, "tokenizer_path": str, "is_generation": False}),
    "sglang-score": _JOINED,
    "sglang-score-labels": _JOINED,
    "sglang-score-unanswerable": _flat("NotImplementedError", 501),
    "sglang-unknown-model": _flat("NotFoundError", 404),
    "sglang-v1-classify": _CLASSIFIED,
    "sglang-v1-classify-unknown-model": _flat("NotFoundError", 404),
    "slime-key": {"quality": float},
    "slime-number": float,
    "slime-unknown-model": _NATIVE,
    "systemone-bad-request": _DETAIL,
    "systemone-noul": {"detail": str},
    "systemone-questions": _SYSTEM_ONE,
    "systemone-unknown-model": {"detail": str},
    "tei-empty": _tei_error("Empty"),
    "tei-info": _info("reranker"),
    "tei-info-attributes": _info("classifier"),
    "tei-info-unknown-model": _tei_error("Validation"),
    "tei-invocations-predict": [_LABEL],
    "tei-predict": [_LABEL],
    "tei-predict-attributes": [_LABEL],
    "tei-predict-batch": [[_LABEL]],
    "tei-rerank": [{"index": int, "text": str, "score": float}],
    "tei-rerank-plain": [{"index": int, "score": float}],
    "tei-root-rerank": [{"index": int, "score": float}],
    "tei-unknown-model": _tei_error("Validation"),
    "tei-vertex": {
        "predictions": ([_LABEL], [[_LABEL]], [{"index": int, "text": str, "score": float}])
    },
    "tei-vertex-unknown-model": _tei_error("Validation"),
    "vllm-bad-request": _vllm_error("BadRequestError", 400),
    "vllm-classify": _CLASSIFIED,
    "vllm-classify-ids": _CLASSIFIED,
    "vllm-invocations": _CLASSIFIED,
    "vllm-invocations-score": _SCORED,
    "vllm-load": {"server_load": int},
    "vllm-pooling": _pooled([float]),
    "vllm-pooling-base64": _pooled(str),
    "vllm-pooling-steps": _pooled([[float]]),
    "vllm-score": _SCORED,
    "vllm-score-v1": _SCORED,
    "vllm-tokenize": {
        "count": int,
        "max_model_len": int,
        "tokens": [int],
        "token_strs": OrNull([str]),
    },
    "vllm-unknown-model": _vllm_error("NotFoundError", 404),
    "vllm-version": {"version": str},
}
