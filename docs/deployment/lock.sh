#!/usr/bin/env bash
# Writes the two locks of the container from pyproject.toml: every version and every hash, for all platforms.
# UV names the program uv (https://docs.astral.sh/uv); `make lock` brings it.
set -euo pipefail
cd "$(dirname "$0")/../.."
options=(--quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links)
"${UV:-uv}" pip compile "${options[@]}" "$@" --extra dashboard --extra fast --extra s3 \
  -o docs/deployment/requirements.lock pyproject.toml
python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' |
  "${UV:-uv}" pip compile "${options[@]}" "$@" -o docs/deployment/requirements-build.lock -
